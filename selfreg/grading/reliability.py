"""Audit a run's reward: grade some of its stored programs again, and search them for shortcuts."""

import json
import random
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from scipy.stats import binomtest

from selfreg.data.sets import load_sets
from selfreg.grading.patterns import MEANINGS, suspicious
from selfreg.grading.pool import GraderError, GraderPool
from selfreg.run import rundir
from selfreg.run.config import KEYS
from selfreg.run.records import Grade, Outcome, Problem

STREAMS = ("train", "panel", "report")

_NEAR = 0.5
_LEVEL = 0.95

# The parts of a verdict to compare: all of it, or only the reward that the policy learns from.
_ASPECTS: dict[str, Callable[[Outcome], object]] = {
    "verdict": lambda outcome: outcome,
    "reward": lambda outcome: outcome is Outcome.PASSED,
}


@dataclass(frozen=True, slots=True)
class Stored:
    """A program that a run graded, merged over all the times that it was sampled.

    Attributes:
      problem: The problem that it was to solve.
      program: Its source.
      outcomes: The outcomes that the run gave it. More than one is already a flip.
      count: The number of times that it was sampled.
      time_s: The most CPU seconds that it used in the run.
      place: The name of a file that contains it.
    """

    problem: Problem
    program: str
    outcomes: frozenset[Outcome]
    count: int
    time_s: float
    place: str


@dataclass(frozen=True, slots=True)
class Regraded:
    """A stored program and its new grades."""

    stored: Stored
    grades: tuple[Grade, ...]

    def flips(self, aspect: str) -> bool:
        """Whether the verdict or the reward varies among the new grades and the stored outcomes."""
        outcomes = self.stored.outcomes | {grade.outcome for grade in self.grades}
        return len(set(map(_ASPECTS[aspect], outcomes))) > 1

    def disagreeing(self, aspect: str) -> int:
        """Count the new grades that differ from the first new one."""
        first, *others = (_ASPECTS[aspect](grade.outcome) for grade in self.grades)
        return sum(other != first for other in others)


@dataclass(frozen=True, slots=True)
class Draw:
    """The programs to grade again.

    Attributes:
      programs: Distinct programs, each equally likely, for rates of the grader.
      completions: The programs of completions, each completion equally likely, for what the run
        measured. A program that was sampled often is therefore more likely, and may appear twice.
    """

    programs: tuple[Stored, ...]
    completions: tuple[Stored, ...]


def read_programs(
    run: Path, problems: Mapping[str, Problem], streams: Collection[str] = STREAMS
) -> list[Stored]:
    """Return every distinct program that a run has graded, in a fixed order.

    Raises:
      ValueError: There are no programs, or one is for a problem that is not in `problems`.
    """
    columns = ["problem_id", "program", "outcome", "grade_time_s"]
    found: dict[tuple[str, str], Stored] = {}
    lost = set()
    for file in sorted((run / rundir.COMPLETIONS).glob("*.parquet")):
        if file.stem.rpartition("_")[2] not in streams:
            continue
        for name, program, outcome, time_s in zip(
            *pq.read_table(file, columns=columns).to_pydict().values(), strict=True
        ):
            if name not in problems:
                lost.add(name)
            elif outcome != Outcome.NO_CODE:
                new = Stored(
                    problems[name], program, frozenset({Outcome(outcome)}), 1, time_s, file.name
                )
                found[name, program] = _merge(found.get((name, program)), new)
    if lost:
        raise ValueError(
            f"{run} has programs for problems that are not where its config says they come from, "
            f"such as {min(lost)!r} ({len(lost)} in all): has their file changed, or does this "
            "version of selfreg make others?"
        )
    if not found:
        raise ValueError(
            f"{run / rundir.COMPLETIONS} holds no programs of the streams {', '.join(streams)}"
        )
    return [found[key] for key in sorted(found)]


def _merge(old: Stored | None, new: Stored) -> Stored:
    if old is None:
        return new
    return Stored(
        old.problem,
        old.program,
        old.outcomes | new.outcomes,
        old.count + new.count,
        max(old.time_s, new.time_s),
        old.place,
    )


def draw(programs: Sequence[Stored], size: int, seed: int) -> Draw:
    """Draw up to `size` distinct programs without replacement, and `size` completions with it."""
    generator = random.Random(seed)
    chosen = generator.sample(programs, min(size, len(programs)))
    counts = [stored.count for stored in programs]
    return Draw(tuple(chosen), tuple(generator.choices(programs, counts, k=size)))


def regrade(pool: GraderPool, sample: Sequence[Stored], repeats: int) -> list[Regraded]:
    """Grade all programs `repeats` times.

    Raises:
      GraderError: The grader failed.
    """
    jobs = [(stored.problem, stored.program) for stored in sample]
    # Equal jobs of one call share a grade, so that each repeat needs a call of its own.
    rounds = [pool.grade(jobs) for _ in range(repeats)]
    lost = [grade for grades in rounds for grade in grades if grade.outcome is Outcome.INFRA_ERROR]
    if lost:
        raise GraderError(f"{len(lost)} programs have no verdict: {lost[0].detail}")
    return [
        Regraded(stored, tuple(grades))
        for stored, grades in zip(sample, zip(*rounds, strict=True), strict=True)
    ]


def rate(hits: int, count: int) -> dict[str, Any]:
    """Return a rate of independent draws with its exact (Clopper-Pearson) 95% interval.

    Zero hits do not prove a rate of zero. `high` is then the rate that would show a hit in 97.5% of
    audits.
    """
    if not count:
        return {"hits": 0, "n": 0, "rate": "not run"}
    interval = binomtest(hits, count).proportion_ci(_LEVEL)
    low, high = float(interval.low), float(interval.high)
    return {"hits": hits, "n": count, "rate": hits / count, "low": low, "high": high}


def noise(regraded: Sequence[Regraded], aspect: str) -> dict[str, Any]:
    """Return how often a new grade differs from the first new one, with a 95% interval.

    Grades of one program are not independent, so that the interval counts programs. If a share p of
    them has any disagreement in k grades, the rate is at least p / (k - 1) and at most p.
    """
    repeats = len(regraded[0].grades) if regraded else 0
    if repeats < 2:
        return {"hits": 0, "n": 0, "rate": "not run"}
    hits = [each.disagreeing(aspect) for each in regraded]
    programs = rate(sum(hit > 0 for hit in hits), len(regraded))
    count = len(regraded) * (repeats - 1)
    return {
        "hits": sum(hits),
        "n": count,
        "rate": sum(hits) / count,
        "low": programs["low"] / (repeats - 1),
        "high": programs["high"],
        "programs": len(regraded),
        "repeats": repeats,
    }


def limits(
    programs: Sequence[Stored], regraded: Sequence[Regraded], scale: float
) -> dict[str, Any]:
    """Return the programs whose verdict a slower or busier machine could change.

    A program's CPU time is summed over all its cases, but each case has the whole limit. A program
    with many cases may therefore count as near the limit although no case is.

    Args:
      programs: All programs of the run, with the CPU times from the run.
      regraded: The random sample.
      scale: The run's `grading.time_limit_scale`.
    """

    def share(problem: Problem, time_s: float) -> float:
        return time_s / (problem.time_limit_s * scale)

    late = [stored for stored in programs if Outcome.TIMEOUT in stored.outcomes]
    near = [
        stored
        for stored in programs
        if Outcome.TIMEOUT not in stored.outcomes and share(stored.problem, stored.time_s) >= _NEAR
    ]
    late_again = [r for r in regraded if Outcome.TIMEOUT in {grade.outcome for grade in r.grades}]
    near_again = [
        r
        for r in regraded
        if r not in late_again
        and max(share(r.stored.problem, grade.time_s) for grade in r.grades) >= _NEAR
    ]
    return {
        "near_means": _NEAR,
        "timeouts": _share_of_all(len(late), len(programs)),
        "near": _share_of_all(len(near), len(programs)),
        "timeouts_again": rate(len(late_again), len(regraded)),
        "near_again": rate(len(near_again), len(regraded)),
        "programs": [
            _example(s, f"{share(s.problem, s.time_s):.0%} of the limit", time_s=s.time_s)
            for s in near
        ],
    }


def shortcuts(programs: Sequence[Stored]) -> dict[str, Any]:
    """Return a run's passes that fit a pattern, and the pass rate without them."""
    passes = [stored for stored in programs if Outcome.PASSED in stored.outcomes]
    found = [(stored, suspicious(stored.problem, stored.program)) for stored in passes]
    flagged = [(stored, names) for stored, names in found if names]
    counts = Counter(name for _, names in flagged for name in names)
    completions = sum(stored.count for stored in programs)
    passed = sum(stored.count for stored in passes)
    suspect = sum(stored.count for stored, _ in flagged)
    return {
        "passes": _share_of_all(len(flagged), len(passes)),
        "pass_rate": passed / completions,
        "pass_rate_without": (passed - suspect) / completions,
        "patterns": {
            name: {"programs": counts[name], "meaning": meaning}
            for name, meaning in MEANINGS.items()
        },
        "programs": [_example(stored, ", ".join(names)) for stored, names in flagged],
    }


def summarize(
    programs: Sequence[Stored], drawn: Draw, regraded: Sequence[Regraded], scale: float
) -> dict[str, Any]:
    """Return all results of the audit as JSON data.

    Args:
      programs: All programs of the run.
      drawn: The programs that were drawn.
      regraded: The drawn programs with their new grades, each once.
      scale: The run's `grading.time_limit_scale`.
    """
    grades = {id(each.stored): each for each in regraded}
    sample = [grades[id(stored)] for stored in drawn.programs]
    unstable = sum(grades[id(stored)].flips("reward") for stored in drawn.completions)
    return {
        "completions": sum(stored.count for stored in programs),
        "programs": len(programs),
        "outcomes": {
            "stored": Counter(str(o) for r in sample for o in r.stored.outcomes),
            "again": Counter(str(g.outcome) for r in sample for g in r.grades),
        },
        "flips": {
            aspect: rate(sum(r.flips(aspect) for r in sample), len(sample)) for aspect in _ASPECTS
        },
        "noise": {aspect: noise(sample, aspect) for aspect in _ASPECTS},
        "pass_at_1": rate(unstable, len(drawn.completions)),
        "flipped": [
            _example(r.stored, ", ".join(grade.outcome for grade in r.grades))
            for r in regraded
            if r.flips("verdict")
        ],
        "limits": limits(programs, sample, scale),
        "shortcuts": shortcuts(programs),
    }


def _share_of_all(hits: int, count: int) -> dict[str, Any]:
    """Return a share of the whole population, which needs no interval."""
    return {"hits": hits, "n": count, "rate": hits / count if count else "not run"}


def _example(stored: Stored, what: str, **more: Any) -> dict[str, Any]:
    return {
        "problem": stored.problem.id,
        "file": stored.place,
        "sampled": stored.count,
        "stored": sorted(stored.outcomes),
        "what": what,
        **more,
        "program": stored.program,
    }


def audit(
    run: Path,
    *,
    sample: int,
    repeats: int,
    seed: int = 0,
    streams: Collection[str] = STREAMS,
    workers: int = 0,
) -> dict[str, Any]:
    """Grade a sample of a run's stored programs again, and search its passes for shortcuts.

    Args:
      run: A run folder.
      sample: The number of programs to grade again.
      repeats: How often to grade each of them.
      seed: The seed of the sample.
      streams: The streams whose completions to use, from `STREAMS`.
      workers: As in GraderPool.

    Returns:
      The results of `summarize` and the arguments of the audit.

    Raises:
      ValueError: A number is invalid, the folder is not a run, or its programs or problems cannot
        be read.
      ImportError: The problems need a library that is not installed.
      GraderError: The grader failed.
    """
    for name, value, least in (("sample", sample, 0), ("repeats", repeats, 1), ("seed", seed, 0)):
        if value < least:
            raise ValueError(f"--{name} must be at least {least}, not {value}")
    if unknown := set(streams) - set(STREAMS):
        raise ValueError(f"--streams has {min(unknown)!r}; allowed: {', '.join(STREAMS)}")
    file = run / rundir.CONFIG
    if not file.is_file():
        raise ValueError(f"{run} is not a run folder: it has no {rundir.CONFIG}")
    config = json.loads(file.read_text())
    try:
        sets = load_sets(config["problems"])
        settings = _grading(config["grading"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{file} was written by another version of selfreg: {error}") from None
    by_id = {problem.id: problem for problem in (*sets.train, *sets.panel, *sets.report)}
    programs = read_programs(run, by_id, streams)
    drawn = draw(programs, sample, seed)
    chosen = {id(stored): stored for stored in (*drawn.programs, *drawn.completions)}
    regraded: list[Regraded] = []
    if chosen:
        with GraderPool(workers, **settings) as pool:
            regraded = regrade(pool, list(chosen.values()), repeats)
    facts = {"run": str(run), "streams": sorted(streams), "seed": seed, "repeats": repeats}
    return facts | summarize(programs, drawn, regraded, settings["time_limit_scale"])


def _grading(section: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's grading settings as GraderPool's arguments, with defaults for older runs."""
    names = ("time_limit_scale", "max_retries", "cpp_options", "isolation", "allow_weak")
    settings = {name: section.get(name, KEYS[f"grading.{name}"].default) for name in names}
    return settings | {"cpp_options": settings["cpp_options"].split()}
