"""Capability vectors: the score of each policy on panels that it is not trained for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import hypot

from selfreg.analysis.load import Run
from selfreg.analysis.plot import campaign_starts
from selfreg.run.records import PanelScore

MAIN = "main"


@dataclass(frozen=True, slots=True)
class Measured:
    """The scores of one policy on every panel.

    Attributes:
      campaign: Index of the campaign, from 0.
      place: "start", "peak" or "end"; joined, as in "peak and end", if these are one policy.
      step: Step of the policy in that campaign.
      update: Updates that the chain had made by then.
      scores: Scores by panel: "main", which is the report panel, then the capabilities.
      distinct: distinct_completions of the training samples at that step. A campaign's last step
        may draw no samples; the step before it then counts. None if it was not measured.
    """

    campaign: int
    place: str
    step: int
    update: int
    scores: Mapping[str, PanelScore]
    distinct: float | None


def measured(run: Run) -> list[Measured]:
    """Return the start, peak and end of every campaign whose capabilities were measured, in order.

    The list is empty if the config asks for no capability.
    """
    found = []
    for summary, start in zip(run.summaries, campaign_starts(run), strict=False):
        if not summary.capabilities:
            continue
        places: dict[int, list[str]] = {}
        for place, step in (("start", 0), ("peak", summary.peak_step), ("end", summary.end_step)):
            places.setdefault(step, []).append(place)
        panels = {MAIN: summary.scores, **summary.capabilities}
        for step, names in places.items():
            scores = {panel: by_place[names[0]] for panel, by_place in panels.items()}
            place, at = " and ".join(names), start + step
            distinct = _distinct(run, summary.campaign, step)
            found.append(Measured(summary.campaign, place, step, at, scores, distinct))
    return found


def score_rows(policies: Sequence[Measured]) -> list[dict[str, str]]:
    """Format the scores ± one standard error, one row per policy."""
    return [
        _name(policy)
        | {n: _text(s.pass_at_1, s.standard_error) for n, s in policy.scores.items()}
        | {"distinct": "-" if policy.distinct is None else f"{policy.distinct:.2f}"}
        for policy in _once(policies)
    ]


def gap_rows(policies: Sequence[Measured]) -> list[dict[str, str]]:
    """Format the generalization gaps, main - panel, ± one standard error, one row per policy.

    The panels are independent, so Var[main - panel] = Var[main] + Var[panel].
    """
    return [_name(policy) | _gaps(policy) for policy in _once(policies)]


def _once(policies: Sequence[Measured]) -> list[Measured]:
    """Drop the start of every later campaign: an earlier campaign already lists that policy."""
    return [policy for policy in policies if policy.step or not policy.campaign]


def _name(policy: Measured) -> dict[str, str]:
    return {
        "campaign": str(policy.campaign + 1),
        "policy": f"{policy.place}, step {policy.step}",
    }


def _gaps(policy: Measured) -> dict[str, str]:
    main = policy.scores[MAIN]
    gaps = {}
    for name, score in policy.scores.items():
        if name != MAIN:
            gap = round(main.pass_at_1 - score.pass_at_1, 2) + 0.0  # no -0.00
            error = hypot(main.standard_error, score.standard_error)
            gaps[f"{MAIN} - {name}"] = _text(gap, error, "+")
    return gaps


def _text(value: float, error: float, sign: str = "") -> str:
    return f"{value:{sign}.2f} ± {error:.2f}"


def _distinct(run: Run, campaign: int, step: int) -> float | None:
    records = run.traces[campaign].records
    known = [r for r in records if r.step <= step and "distinct_completions" in r.metrics]
    near = known[-1:] if known and known[-1].step >= step - 1 else []
    return near[0].metrics["distinct_completions"] if near else None
