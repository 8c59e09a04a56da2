"""The stored decisions of the control, campaign by campaign."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from selfreg.analysis.load import Run
from selfreg.run.records import Answer, Checkpoint, Plan, Trace
from selfreg.run.rundir import place_of, read_plans

RESTORES = "control/restores"


@dataclass(frozen=True, slots=True)
class Decided:
    """The control's decisions on one campaign.

    Attributes:
      campaign: Index of the campaign, from 0.
      plan: The plan made before the campaign began.
      answer: The language model's answer about the plan; None if no model was asked.
      steps: Updates made so far.
      restores: The first step after each restore of the peak.
      stopped_early: Whether the campaign ended before its budget was used up.
    """

    campaign: int
    plan: Plan
    answer: Answer | None
    steps: int
    restores: tuple[int, ...]
    stopped_early: bool


def decisions(run: Run) -> list[Decided]:
    """Return the control's decisions on every campaign that has begun, in order.

    A campaign without a stored plan is left out. Runs of older versions lack the plan of the
    campaign in which they stopped.
    """
    planned = {p.campaign: (p.plan, p.answer) for p in read_plans(run.folder)}
    found = []
    for trace in run.traces:
        ended = trace.campaign < len(run.summaries)
        if ended:
            plan = run.summaries[trace.campaign].plan
            answer = planned[trace.campaign][1] if trace.campaign in planned else None
        elif trace.campaign in planned:
            plan, answer = planned[trace.campaign]
        else:
            continue
        early = ended and trace.end_step < plan.budget_steps
        found.append(Decided(trace.campaign, plan, answer, trace.end_step, _restores(trace), early))
    return found


def rows(run: Run, decided: Sequence[Decided]) -> list[dict[str, str]]:
    """Format the decisions, one row per campaign, without columns that are empty in all rows."""
    table = []
    for one in decided:
        plan = one.plan
        restores = ", ".join(str(step) for step in one.restores)
        table.append(
            {
                "campaign": str(one.campaign + 1),
                "action": plan.action,
                "reason": plan.reason,
                "starts from": _origin(run, plan.start),
                "budget": f"{plan.budget_steps} steps",
                "lr": f"{plan.lr:g}",
                "KL": f"{plan.kl_coef:g}",
                "temperature": "" if plan.temperature is None else f"{plan.temperature:g}",
                "group size": "" if plan.group_size is None else str(plan.group_size),
                "restores": f"at step {restores}" if restores else "",
                "ended": f"early, at step {one.steps}" if one.stopped_early else "",
            }
        )
    used = [name for name in table[0] if any(row[name] for row in table)] if table else []
    return [{name: row[name] or "-" for name in used} for row in table]


def _restores(trace: Trace) -> tuple[int, ...]:
    counts = [0.0] + [record.metrics.get(RESTORES, 0.0) for record in trace.records]
    grown = [after > before for before, after in pairwise(counts)]
    return tuple(r.step for r, more in zip(trace.records, grown, strict=True) if more)


def _origin(run: Run, start: Checkpoint | None) -> str:
    if start is None:
        return "the initial policy"
    return f"{place_of(run.summaries[start.campaign], start.step)} of campaign {start.campaign + 1}"
