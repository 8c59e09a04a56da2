"""Decide if a checkpoint may be promoted over another. Pipelines call this command.

    selfreg promote --run=runs/tiny/ES/seed_7
    selfreg promote --candidate=runs/b:peak --incumbent=runs/a:kept
    selfreg promote --run=runs/b --bound=-0.05 --bounds=report=0,cpp=-0.02

docs/commands.md says how to name checkpoints: RUN:start, RUN:peak, RUN:end, RUN:kept, or
RUN:CAMPAIGN:peak for one campaign. --run=RUN compares RUN:kept with RUN:start. Both checkpoints
must have been measured on the same panels.

The difference candidate - incumbent, paired by problem, must exceed its bound by more than noise.
The guard's one-sided sign-flip test checks this at --level, on the report panel and on every
protected capability. The candidate is promoted only if every test passes. So a candidate whose true
difference does not exceed a bound is promoted with a probability of at most --level, and the tests
need no correction for their number. A bound of 0 asks for a gain.

The command prints JSON. The exit code is 0 to promote. It is 1 not to promote, because the
candidate is worse or the panels are too small to tell. It is 2 for a mistake in the call.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from absl import flags

from selfreg.analysis.stats import Difference, panel_difference
from selfreg.guard.compare import lowest, p_above
from selfreg.run import address
from selfreg.run.command import Command, Exit
from selfreg.run.command import run as run_command
from selfreg.run.records import PanelScore, to_json
from selfreg.run.rundir import place_of, read_summaries

_RUN = flags.DEFINE_string("run", None, "A run folder: compare RUN:kept with RUN:start.")
_CANDIDATE = flags.DEFINE_string("candidate", None, f"The checkpoint to promote: {address.FORMS}.")
_INCUMBENT = flags.DEFINE_string("incumbent", None, "The checkpoint in use, in the same form.")
_PROTECT = flags.DEFINE_list(
    "protect", None, "Capabilities that must not fall; by default all that both were measured on."
)
_BOUND = flags.DEFINE_float("bound", -0.05, "What candidate - incumbent must exceed.")
_BOUNDS = flags.DEFINE_list("bounds", [], "NAME=BOUND,... of single panels; report: the main.")
_LEVEL = flags.DEFINE_float("level", 0.05, "The level of each test.")

REPORT = "report"


class Place(NamedTuple):
    """A measured policy: its name and its scores by panel."""

    name: str
    scores: Mapping[str, PanelScore]


@dataclass(frozen=True, slots=True)
class Test:
    """The comparison on one panel.

    Attributes:
      panel: "report", or a capability's name.
      candidate: The candidate's pass@1.
      incumbent: The incumbent's pass@1.
      difference: Candidate - incumbent, paired by problem.
      lowest: One-sided lower confidence bound of the difference, at the level.
      bound: The value that the difference must exceed.
      p: The p-value of the hypothesis that the true difference is at most the bound.
      passes: p <= level.
      worse: Whether the difference is below the bound by more than noise. If a test neither passes
        nor is worse, the panel is too small to tell.
    """

    panel: str
    candidate: float
    incumbent: float
    difference: Difference
    lowest: float
    bound: float
    p: float
    passes: bool
    worse: bool
    __test__ = False  # pytest would take the name for its own


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer to the pipeline.

    Attributes:
      promote: Whether every test passes.
      reason: The reason, in one line.
      candidate: The candidate, as RUN:CAMPAIGN:PLACE.
      incumbent: The incumbent, as RUN:CAMPAIGN:PLACE.
      level: The level of each test.
      tests: The test on the report panel, then those on capabilities.
    """

    promote: bool
    reason: str
    candidate: str
    incumbent: str
    level: float
    tests: tuple[Test, ...]


def decide(
    candidate: Place, incumbent: Place, bounds: Mapping[str, float], level: float
) -> Decision:
    """Compare two policies on panels.

    Args:
      candidate: The policy that may be promoted.
      incumbent: The policy in use.
      bounds: The value that candidate - incumbent must exceed, for each panel to test.
      level: The level of each test.

    Raises:
      ValueError: A policy was not measured on one of these panels, or the problems differ.
    """
    tests = tuple(_test(candidate, incumbent, name, bounds[name], level) for name in bounds)
    failed = [test for test in tests if not test.passes]
    if not failed:
        reason = f"above its bound on {', '.join(test.panel for test in tests)}"
    else:
        reason = "; ".join(
            f"{test.panel}: {'below' if test.worse else 'not shown to be above'} {test.bound:+g}, "
            f"{test.difference.mean:+.3f} with a lower bound of {test.lowest:+.3f} "
            f"(n = {test.difference.problems})"
            for test in failed
        )
    return Decision(not failed, reason, candidate.name, incumbent.name, level, tests)


def find_place(text: str) -> Place:
    """Find the policy that an address names, with its scores.

    Raises:
      ValueError: The run, the finished campaign or the place does not exist, or was not measured.
    """
    named = address.parse(text)
    found = address.find(named)
    try:
        summaries = read_summaries(named.run)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{named.run} was written by another version: {error}") from None
    if found.campaign >= len(summaries):
        raise ValueError(f"{text!r}: campaign {found.campaign} has not finished, and has no scores")
    summary = summaries[found.campaign]
    place = str(named.where)
    if place not in ("start", "peak", "end"):
        place = "start" if found.step == 0 else place_of(summary, found.step)
    scores = {REPORT: summary.scores} | dict(summary.capabilities)
    measured = {name: by_place[place] for name, by_place in scores.items() if place in by_place}
    return Place(f"{named.run}:{found.campaign}:{place}", measured)


def main(_: list[str]) -> int:
    """Print the decision, and return the exit code."""
    decision = _decision()
    print(json.dumps(to_json(decision), indent=2))
    return Exit.OK if decision.promote else Exit.FAILED


def _decision() -> Decision:
    run, candidate, incumbent = _RUN.value, _CANDIDATE.value, _INCUMBENT.value
    if (run is None) == (candidate is None and incumbent is None):
        raise ValueError("name either --run, or --candidate and --incumbent")
    if run is not None:
        candidate, incumbent = f"{run}:kept", f"{run}:start"
    if candidate is None or incumbent is None:
        raise ValueError("--candidate and --incumbent are needed together")
    if not 0 < _LEVEL.value < 0.5:
        raise ValueError(f"--level={_LEVEL.value} must lie between 0 and 0.5")
    new, old = find_place(candidate), find_place(incumbent)
    both = [name for name in new.scores if name in old.scores and name != REPORT]
    protected = both if _PROTECT.value is None else [name for name in _PROTECT.value if name]
    named = dict(_bound(item) for item in _BOUNDS.value)
    panels = dict.fromkeys([REPORT, *protected])
    unknown = sorted(named.keys() - panels.keys())
    if unknown:
        raise ValueError(f"--bounds names {', '.join(unknown)}, but tested are {', '.join(panels)}")
    return decide(new, old, {n: named.get(n, _BOUND.value) for n in panels}, _LEVEL.value)


def _bound(item: str) -> tuple[str, float]:
    name, _, value = item.partition("=")
    try:
        return name, float(value)
    except ValueError:
        raise ValueError(f"--bounds={item!r} must be NAME=BOUND, such as cpp=-0.02") from None


def _test(candidate: Place, incumbent: Place, panel: str, bound: float, level: float) -> Test:
    for place in (candidate, incumbent):
        if panel not in place.scores:
            raise ValueError(f"{place.name} was not measured on {panel!r}")
    new, old = candidate.scores[panel], incumbent.scores[panel]
    difference = panel_difference(new, old)
    by_problem = new.pass_rates - old.pass_rates
    p = p_above(by_problem, bound)
    return Test(
        panel,
        new.pass_at_1,
        old.pass_at_1,
        difference,
        max(lowest(by_problem, level), -1.0),
        bound,
        p,
        p <= level,
        p_above(-by_problem, -bound) <= level,
    )


def run() -> None:
    """Run the command."""
    run_command(
        main, Command("promote", "selfreg.promote", "--candidate=RUN:peak --incumbent=RUN:end")
    )


if __name__ == "__main__":
    run()
