"""Capability vectors of a run: what each policy can do beside what it is trained for."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import hypot

from selfreg.analysis.load import Run
from selfreg.analysis.plot import campaign_starts
from selfreg.records import PanelScore

MAIN = "main"


@dataclass(frozen=True, slots=True)
class Measured:
    """One policy on every panel.

    Attributes:
      campaign: From 0, the campaign that made it.
      place: "start", "peak" or "end"; joined, as in "peak and end", where these are one policy.
      step: Its step in that campaign.
      update: Updates that the chain had made by then.
      scores: By panel: "main", which is the report panel, then the capabilities.
      distinct: distinct_completions of the training samples at that step, or, where a campaign's
        last step drew none, at the one before; None where it was not measured.
    """

    campaign: int
    place: str
    step: int
    update: int
    scores: Mapping[str, PanelScore]
    distinct: float | None


def measured(run: Run) -> list[Measured]:
    """Every policy whose capabilities were measured, once each, in the order they were made.

    A campaign's start stands only in the first one: a later one starts from a policy that has its
    row. Empty where the config asks for no capability.
    """
    found = []
    for summary, start in zip(run.summaries, campaign_starts(run), strict=False):
        if not summary.capabilities:
            continue
        places: dict[int, list[str]] = {}
        for place, step in (("start", 0), ("peak", summary.peak_step), ("end", summary.end_step)):
            places.setdefault(step, []).append(place)
        for step, names in places.items():
            if step == 0 and summary.campaign:
                continue  # measured in the campaign that made it
            panels = {MAIN: summary.scores, **summary.capabilities}
            scores = {panel: by_place[names[0]] for panel, by_place in panels.items()}
            place, at = " and ".join(names), start + step
            distinct = _distinct(run, summary.campaign, step)
            found.append(Measured(summary.campaign, place, step, at, scores, distinct))
    return found


def rows(policies: list[Measured]) -> list[dict[str, str]]:
    """Scores ± one standard error and generalization gaps as text, a row a policy, by column."""
    return [_row(policy) for policy in policies]


def _row(policy: Measured) -> dict[str, str]:
    main = policy.scores[MAIN]
    row = {
        "campaign": str(policy.campaign + 1),
        "policy": f"{policy.place}, step {policy.step}",
        MAIN: _text(main.pass_at_1, main.standard_error),
    }
    for name, score in policy.scores.items():
        if name != MAIN:
            gap = main.pass_at_1 - score.pass_at_1
            row[name] = _text(score.pass_at_1, score.standard_error)
            error = hypot(main.standard_error, score.standard_error)
            row[f"gap to {name}"] = _text(gap, error, "+")
    return row | {"distinct": "-" if policy.distinct is None else f"{policy.distinct:.2f}"}


def _text(value: float, error: float, sign: str = "") -> str:
    return f"{value:{sign}.2f} ± {error:.2f}"


def _distinct(run: Run, campaign: int, step: int) -> float | None:
    records = run.traces[campaign].records
    known = [r for r in records if r.step <= step and "distinct_completions" in r.metrics]
    near = known[-1:] if known and known[-1].step >= step - 1 else []
    return near[0].metrics["distinct_completions"] if near else None
