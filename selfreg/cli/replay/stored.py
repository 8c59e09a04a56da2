"""Replay a stored run under other controls, and put their decisions into a table."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from selfreg.analysis.load import Run
from selfreg.control.find import find_between, find_calibration, find_within
from selfreg.control.protocol import base_of
from selfreg.control.replay import RESTORES, Decided, Played, replay_chain
from selfreg.run import rundir
from selfreg.run.conditions import CONDITIONS, DEFAULTS
from selfreg.run.config import default
from selfreg.run.records import Checkpoint, Plan
from selfreg.run.validate import resolve


def with_controls(
    config: Mapping[str, Any], condition: str | None, within: str | None, between: str | None
) -> dict[str, Any]:
    """Return a run's config with other controls; None keeps the run's own control.

    Options that the run's version of the package did not have take their defaults.

    Raises:
      ValueError: The condition does not exist.
    """
    if condition is not None and condition not in CONDITIONS:
        raise ValueError(f"--condition={condition}: must be one of {', '.join(CONDITIONS)}")
    options = {**resolve(default()).control, **config["control"]}
    changed = {**config, "control": options}
    if condition is not None:
        chosen = {**DEFAULTS, **CONDITIONS[condition]}
        options |= {n.partition(".")[2]: v for n, v in chosen.items() if n.startswith("control.")}
        changed |= {name: chosen[name] for name in ("within", "between")}
    named = {"within": within, "between": between}
    return changed | {name: value for name, value in named.items() if value is not None}


def decisions(run: Run, config: Mapping[str, Any]) -> tuple[tuple[Decided, ...], Plan]:
    """Ask the controls of a config to decide on a run's finished campaigns.

    Raises:
      ValueError: A control, its options or the run cannot be used.
    """
    if not run.summaries:
        raise ValueError(f"{run.folder} has no finished campaign yet")
    options = config["control"]
    calibration = find_calibration(options["predictor_calibration"])
    updates = rundir.read_updates(options["match_updates_of"])
    base = base_of(config, rundir.read_memory(options["memory"]), calibration, updates)
    records = [rundir.with_rates(run.folder, record) for record in run.records]
    answers = {planned.campaign: planned.answer for planned in rundir.read_plans(run.folder)}
    played = [
        Played(
            summary.plan,
            rundir.trace_of(records, config["control_metric"], summary),
            answers.get(summary.campaign),
        )
        for summary in run.summaries
    ]
    return replay_chain(
        find_within(config["within"]), find_between(config["between"]), base, played
    )


def table_of(run: Run, decided: tuple[Decided, ...], after: Plan, title: str) -> Table:
    """Tabulate what the run did in each campaign, and what the controls would have decided."""
    table = Table(title=title)
    for column in ("campaign", "the run did", "and within it", "would order", "would do within it"):
        table.add_column(column, justify="left")
    for summary, decision in zip(run.summaries, decided, strict=True):
        trace = run.traces[summary.campaign]
        restores = int(trace.records[-1].metrics.get(RESTORES, 0))
        did = f"{trace.end_step} updates, peak {summary.peak_step}"
        did += f", restored {restores} times" if restores else ""
        orders = plan_words(decision.plan)
        table.add_row(
            str(summary.campaign),
            plan_words(summary.plan),
            did,
            "the same" if decision.plan == summary.plan else orders,
            within_words(decision, summary.plan, trace.end_step),
        )
    table.add_row(str(len(decided)), "-", "-", plan_words(after), "-")
    return table


def plan_words(plan: Plan) -> str:
    """Describe a plan in one line."""
    start = "the initial policy" if plan.start is None else _name(plan.start)
    words = [f"{plan.action + ': ' if plan.action else ''}{start}", f"{plan.budget_steps} steps"]
    words += [f"lr {plan.lr:g}", f"KL {plan.kl_coef:g}"]
    words += [] if plan.temperature is None else [f"temperature {plan.temperature:g}"]
    words += [] if plan.group_size is None else [f"group {plan.group_size}"]
    return ", ".join(words)


def within_words(decided: Decided, plan: Plan, end_step: int) -> str:
    """Describe in one line what a control decides within a campaign."""
    if not decided.decisions:
        return f"go on to step {end_step}" + ("" if end_step == plan.budget_steps else ", at least")
    return ", ".join(f"{d.verdict.value.replace('_', ' ')} at {d.step}" for d in decided.decisions)


def _name(checkpoint: Checkpoint) -> str:
    return f"campaign {checkpoint.campaign} step {checkpoint.step}"
