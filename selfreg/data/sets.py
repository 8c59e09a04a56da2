"""The three sets of problems of a run: what it trains on, and two panels that it never sees."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from selfreg.data.problems import load_problems
from selfreg.data.splits import split_panels
from selfreg.records import Problem

# Sets do not depend on a run's seed: runs that differ by seed alone are measured on one panel.
_SETS_SEED = 0


@dataclass(frozen=True, slots=True)
class ProblemSets:
    """Disjoint sets.

    Attributes:
      train: What the policy learns from.
      panel: Measured all through a campaign; the controls may select by it.
      report: Measured at a campaign's start, peak and end only; nothing is selected by it, so that
        the peak's score is not the largest of many noisy ones.
    """

    train: tuple[Problem, ...]
    panel: tuple[Problem, ...]
    report: tuple[Problem, ...]


def load_sets(settings: Mapping[str, Any]) -> ProblemSets:
    """Load what `config.problems` names.

    Args:
      settings: Its section `problems`.

    Raises:
      ValueError: A source is unknown, too small, or has problems in common with another.
    """
    panels = {"panel": settings["panel_count"], "report": settings["report_count"]}
    train = load_problems(settings["train"])
    try:
        if settings["held_out"]:
            held_out = split_panels(load_problems(settings["held_out"]), panels, _SETS_SEED)
        else:
            left = len(train) - sum(panels.values())
            held_out = split_panels(train, panels | {"train": max(left, 1)}, _SETS_SEED)
            train = held_out.pop("train")
    except ValueError as error:
        source = settings["held_out"] or settings["train"]
        raise ValueError(f"config.problems, panels from {source!r}: {error}") from error
    count = settings["train_count"]
    if count:
        if count > len(train):
            raise ValueError(f"config.problems.train_count={count}, but there are {len(train)}")
        train = split_panels(train, {"train": count}, _SETS_SEED)["train"]
    shared = {p.id for p in train} & {p.id for panel in held_out.values() for p in panel}
    if shared:
        raise ValueError(
            f"config.problems: {len(shared)} problems are trained on and held out, such as "
            f"{min(shared)!r}; name another held_out, or '' to hold some out of train"
        )
    return ProblemSets(train, held_out["panel"], held_out["report"])
