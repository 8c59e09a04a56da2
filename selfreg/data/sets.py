"""The three sets of problems of a run: what it trains on, and two panels that it never sees."""

from collections.abc import Mapping, Sequence
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
      capabilities: Panels of other kinds of problems by name, measured when the report is.
    """

    train: tuple[Problem, ...]
    panel: tuple[Problem, ...]
    report: tuple[Problem, ...]
    capabilities: Mapping[str, tuple[Problem, ...]]

    @property
    def all(self) -> tuple[Problem, ...]:
        """Every problem of every set."""
        capabilities = (p for panel in self.capabilities.values() for p in panel)
        return (*self.train, *self.panel, *self.report, *capabilities)


def load_sets(settings: Mapping[str, Any], capabilities: Sequence[str] = ()) -> ProblemSets:
    """Load what `config.problems` names.

    Args:
      settings: Its section `problems`.
      capabilities: As config.evaluation.capabilities.

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
    others = dict(_capability(entry, settings["report_count"]) for entry in capabilities)
    measured = (*held_out.values(), *others.values())
    shared = {p.id for p in train} & {p.id for panel in measured for p in panel}
    if shared:
        raise ValueError(
            f"config.problems: {len(shared)} problems are trained on and held out, such as "
            f"{min(shared)!r}; name another held_out, or '' to hold some out of train"
        )
    return ProblemSets(train, held_out["panel"], held_out["report"], others)


def _capability(entry: str, count: int) -> tuple[str, tuple[Problem, ...]]:
    """The name and the panel of one entry, NAME=SOURCE: as many problems as the report, or all."""
    name, _, source = entry.partition("=")
    if not (name and source):
        raise ValueError(f"config.evaluation.capabilities: {entry!r} is not NAME=SOURCE")
    problems = load_problems(source)
    return name, split_panels(problems, {name: min(count, len(problems))}, _SETS_SEED)[name]
