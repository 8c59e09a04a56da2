"""Load a run's problems: the training set, and the held-out panels that it never trains on."""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selfreg.data.overlap import Overlap, find_overlap
from selfreg.data.problems import load_problems
from selfreg.data.splits import split_panels
from selfreg.run.records import Problem

# Fixed, so that runs that differ only in their seed are measured on the same panels.
_SETS_SEED = 0
# Completions, scores and capabilities are already filed under these names.
_TAKEN = ("train", "panel", "report", "main")
_MADE = ("procedural:", "easy:")


@dataclass(frozen=True, slots=True)
class ProblemSets:
    """The training set of a run, and panels that have no problem in common with it.

    Attributes:
      train: The training problems of all campaigns.
      categories: The part of `train` for each campaign; campaigns after the last part keep it. If
        empty, every campaign trains on all of `train`.
      panel: Problems measured throughout a campaign; the controls may select checkpoints by them.
      report: Problems measured only at a campaign's start, peak and end. Nothing is selected by
        them, so the peak's score is not the maximum of many noisy ones.
      capabilities: Panels of other kinds of problems, by name, measured together with `report`.
    """

    train: tuple[Problem, ...]
    panel: tuple[Problem, ...]
    report: tuple[Problem, ...]
    capabilities: Mapping[str, tuple[Problem, ...]]
    categories: tuple[tuple[Problem, ...], ...] = ()

    @property
    def all(self) -> tuple[Problem, ...]:
        """The problems of all sets."""
        capabilities = (p for panel in self.capabilities.values() for p in panel)
        return (*self.train, *self.panel, *self.report, *capabilities)

    def without(self, ids: Collection[str]) -> "ProblemSets":
        """Return these sets without some problems.

        Raises:
          ValueError: A set would be empty.
        """

        def keep(problems: tuple[Problem, ...]) -> tuple[Problem, ...]:
            kept = tuple(problem for problem in problems if problem.id not in ids)
            if not kept:
                raise ValueError(f"nothing is left of the set of {problems[0].id!r}")
            return kept

        return ProblemSets(
            keep(self.train),
            keep(self.panel),
            keep(self.report),
            {name: keep(problems) for name, problems in self.capabilities.items()},
            tuple(map(keep, self.categories)),
        )

    def of_campaign(self, campaign: int) -> tuple[Problem, ...]:
        """Return the training problems of a campaign, counted from 0."""
        if not self.categories:
            return self.train
        return self.categories[min(campaign, len(self.categories) - 1)]


def load_sets(settings: Mapping[str, Any], capabilities: Sequence[str] = ()) -> ProblemSets:
    """Load the sets of problems that a config names.

    Args:
      settings: The section `problems` of the config.
      capabilities: config.evaluation.capabilities, entries of the form NAME=SOURCE.

    Raises:
      ValueError: A source is unknown, is too small, forbids training, or has problems in common
        with another.
    """
    panels = {"panel": settings["panel_count"], "report": settings["report_count"]}
    # The config of an older run folder lacks this key.
    sources = tuple(settings.get("categories", ())) or (settings["train"],)
    categories = [load_problems(source) for source in sources]
    held_out_of = settings["held_out"]
    pool = load_problems(held_out_of) if held_out_of else tuple(p for c in categories for p in c)
    try:
        held_out = split_panels(pool, panels, _SETS_SEED)
        if not held_out_of:
            taken = {p.id for panel in held_out.values() for p in panel}
            taken |= _twins(categories, held_out, settings)
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
    if closed := [problem.id for problem in train if problem.evaluation_only]:
        raise ValueError(
            f"config.problems: the licence of {closed[0]!r} and {len(closed) - 1} others forbids "
            "training on them; name them in held_out or evaluation.capabilities"
        )
    _refuse_overlap(sources, (held_out_of, *capabilities), train, measured, settings)
    return ProblemSets(
        train,
        held_out["panel"],
        held_out["report"],
        others,
        tuple(categories) if len(categories) > 1 else (),
    )


def _twins(
    categories: Sequence[Sequence[Problem]],
    held_out: Mapping[str, Sequence[Problem]],
    settings: Mapping[str, Any],
) -> set[str]:
    """Return the ids of training problems that duplicate a problem of the panels.

    The panels were drawn from the training set, which may hold a problem more than once.
    """
    if settings.get("max_overlap", -1) < 0:
        return set()
    panels = [p for panel in held_out.values() for p in panel]
    names = {p.id for p in panels}
    twins: set[str] = set()
    while True:  # a problem may occur more than twice
        rest = [p for c in categories for p in c if p.id not in names | twins]
        found = {pair.train for pair in find_overlap(rest, panels)}
        if not found:
            break
        twins |= found
    if twins:
        logging.getLogger(__name__).warning(
            "config.problems: left %d problems out of training that also stand in a panel",
            len(twins),
        )
    return twins


def _refuse_overlap(
    train_sources: Sequence[str],
    others: Sequence[str],
    train: Sequence[Problem],
    measured: Sequence[Sequence[Problem]],
    settings: Mapping[str, Any],
) -> None:
    """Refuse panel problems that also occur in the training set under another id.

    Raises:
      ValueError: There are more of them than config.problems.max_overlap.
    """
    most = settings.get("max_overlap", -1)
    # selfreg's own sets have no problems in common by construction.
    own = all(
        name.rpartition("=")[2].startswith(_MADE) for name in (*train_sources, *others) if name
    )
    if most < 0 or own:
        return
    panels = tuple({p.id: p for panel in measured for p in panel}.values())
    found = find_overlap(train, panels)
    if len(found) > most:
        raise ValueError(
            f"config.problems: {len(found)} problems of the panels also stand in the training set "
            f"({', '.join(map(describe, found[:3]))}): name another source, or set "
            f"config.problems.max_overlap={len(found)} to go on"
        )


def describe(pair: Overlap) -> str:
    """Describe a pair of problems that are the same."""
    share = "the same" if pair.share == 1 else f"{pair.share:.0%} of the"
    return f"{pair.held_out} is {pair.train}: {share} {pair.by}"


def _capability(entry: str, count: int) -> tuple[str, tuple[Problem, ...]]:
    """Load the panel of an entry NAME=SOURCE: `count` problems, or all if the source has fewer."""
    name, _, source = entry.partition("=")
    if not (name.isidentifier() and source):
        raise ValueError(f"config.evaluation.capabilities: {entry!r} is not NAME=SOURCE")
    if name in _TAKEN:
        raise ValueError(
            f"config.evaluation.capabilities: {entry!r} must have another name: {name!r} is taken"
        )
    problems = load_problems(source)
    return name, split_panels(problems, {name: min(count, len(problems))}, _SETS_SEED)[name]
