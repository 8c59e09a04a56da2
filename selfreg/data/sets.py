"""The three sets of problems of a run: what it trains on, and two panels that it never sees."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selfreg.data.problems import load_problems
from selfreg.data.splits import split_panels
from selfreg.run.records import Problem

# Sets do not depend on a run's seed: runs that differ by seed alone are measured on one panel.
_SETS_SEED = 0
# What completions, scores and capabilities are filed under already.
_TAKEN = ("train", "panel", "report", "main")


@dataclass(frozen=True, slots=True)
class ProblemSets:
    """Disjoint sets.

    Attributes:
      train: What the policy learns from, in any campaign.
      categories: The part of it that each campaign learns from, the last one stays; empty: all.
      panel: Measured all through a campaign; the controls may select by it.
      report: Measured at a campaign's start, peak and end only; nothing is selected by it, so that
        the peak's score is not the largest of many noisy ones.
      capabilities: Panels of other kinds of problems by name, measured when the report is.
    """

    train: tuple[Problem, ...]
    panel: tuple[Problem, ...]
    report: tuple[Problem, ...]
    capabilities: Mapping[str, tuple[Problem, ...]]
    categories: tuple[tuple[Problem, ...], ...] = ()

    @property
    def all(self) -> tuple[Problem, ...]:
        """Every problem of every set."""
        capabilities = (p for panel in self.capabilities.values() for p in panel)
        return (*self.train, *self.panel, *self.report, *capabilities)

    def of_campaign(self, campaign: int) -> tuple[Problem, ...]:
        """What the policy learns from in a campaign, from 0."""
        if not self.categories:
            return self.train
        return self.categories[min(campaign, len(self.categories) - 1)]


def load_sets(settings: Mapping[str, Any], capabilities: Sequence[str] = ()) -> ProblemSets:
    """Load what `config.problems` names.

    Args:
      settings: Its section `problems`.
      capabilities: As config.evaluation.capabilities.

    Raises:
      ValueError: A source is unknown, too small, or has problems in common with another.
    """
    panels = {"panel": settings["panel_count"], "report": settings["report_count"]}
    # A run folder that is older than the key has none.
    sources = tuple(settings.get("categories", ())) or (settings["train"],)
    categories = [load_problems(source) for source in sources]
    held_out_of = settings["held_out"]
    pool = load_problems(held_out_of) if held_out_of else tuple(p for c in categories for p in c)
    try:
        held_out = split_panels(pool, panels, _SETS_SEED)
        if not held_out_of:
            taken = {p.id for panel in held_out.values() for p in panel}
            categories = [tuple(p for p in c if p.id not in taken) for c in categories]
            if not all(categories):
                raise ValueError("nothing is left to train on")
    except ValueError as error:
        source = held_out_of or ", ".join(sources)
        raise ValueError(f"config.problems, panels from {source!r}: {error}") from error
    count = settings["train_count"]
    if count:
        fewest = min(len(c) for c in categories)
        if count > fewest:
            raise ValueError(f"config.problems.train_count={count}, but there are {fewest}")
        categories = [split_panels(c, {"train": count}, _SETS_SEED)["train"] for c in categories]
    train = tuple({p.id: p for c in categories for p in c}.values())
    others = dict(_capability(entry, settings["report_count"]) for entry in capabilities)
    measured = (*held_out.values(), *others.values())
    shared = {p.id for p in train} & {p.id for panel in measured for p in panel}
    if shared:
        raise ValueError(
            f"config.problems: {len(shared)} problems are trained on and held out, such as "
            f"{min(shared)!r}; name another held_out, or '' to hold some out of train"
        )
    return ProblemSets(
        train,
        held_out["panel"],
        held_out["report"],
        others,
        tuple(categories) if len(categories) > 1 else (),
    )


def _capability(entry: str, count: int) -> tuple[str, tuple[Problem, ...]]:
    """The name and the panel of one entry, NAME=SOURCE: as many problems as the report, or all."""
    name, _, source = entry.partition("=")
    if not (name.isidentifier() and source):
        raise ValueError(f"config.evaluation.capabilities: {entry!r} is not NAME=SOURCE")
    if name in _TAKEN:
        raise ValueError(
            f"config.evaluation.capabilities: {entry!r} must have another name: {name!r} is taken"
        )
    problems = load_problems(source)
    return name, split_panels(problems, {name: min(count, len(problems))}, _SETS_SEED)[name]
