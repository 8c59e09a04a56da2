"""The command line: how noisy, and how hackable, was the reward of a run?

    python -m selfreg.grading.audit --run=runs/tiny/A0/seed_7

Grades a random sample of the run's stored programs again, several times over, and compares verdicts
with each other and with the stored one; and searches every program that passed for shortcuts.
Writes audit.json into the run folder.
"""

import json
import random
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from absl import app, flags
from rich.console import Console
from rich.table import Table
from scipy.stats import binomtest

from selfreg import rundir
from selfreg.data.sets import load_sets
from selfreg.grading.patterns import MEANINGS, suspicious
from selfreg.grading.pool import GraderError, GraderPool
from selfreg.records import Grade, Outcome, Problem

_RUN = flags.DEFINE_string("run", None, "A run folder.")
_SAMPLE = flags.DEFINE_integer("sample", 200, "Programs to grade again; 0: all.", lower_bound=0)
_REPEATS = flags.DEFINE_integer("repeats", 5, "How often each of them.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Of the sample.", lower_bound=0)
_WORKERS = flags.DEFINE_integer("workers", 0, "Processes; 0: one a core.", lower_bound=0)

AUDIT = "audit.json"
_NEAR = 0.5
_LEVEL = 0.95
_EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class Stored:
    """A program that a run graded, once for all the times that it was sampled.

    Attributes:
      problem: What it was to solve.
      program: Its source.
      outcomes: Those that the run gave it: more than one is a flip already.
      count: How often it was sampled.
      place: A file that has it.
    """

    problem: Problem
    program: str
    outcomes: frozenset[str]
    count: int
    place: str


@dataclass(frozen=True, slots=True)
class Regraded:
    """A stored program and its new grades."""

    stored: Stored
    grades: tuple[Grade, ...]

    @property
    def flips(self) -> bool:
        """Whether its reward is not the same every time, the stored one included."""
        rewards = {grade.outcome is Outcome.PASSED for grade in self.grades}
        return len(rewards | {name == Outcome.PASSED for name in self.stored.outcomes}) > 1

    @property
    def time_s(self) -> float:
        """The most CPU seconds that it took."""
        return max(grade.time_s for grade in self.grades)


def read_programs(run: Path, problems: dict[str, Problem]) -> list[Stored]:
    """Every distinct program that a run has graded, in a fixed order.

    Raises:
      ValueError: There are none, or one is for a problem that is not among `problems`.
    """
    files = sorted((run / rundir.COMPLETIONS).glob("*.parquet"))
    found: dict[tuple[str, str], tuple[set[str], int, str]] = {}
    for file in files:
        table = pq.read_table(file, columns=["problem_id", "program", "outcome"]).to_pydict()
        for name, program, outcome in zip(*table.values(), strict=True):
            if outcome == Outcome.NO_CODE:
                continue
            outcomes, count, place = found.get((name, program), (set(), 0, file.name))
            found[name, program] = (outcomes | {outcome}, count + 1, place)
    if not found:
        raise ValueError(f"{run} has no stored programs below {rundir.COMPLETIONS}/")
    if lost := sorted({name for name, _ in found} - problems.keys()):
        raise ValueError(
            f"{len(lost)} problems of {run}, such as {lost[0]!r}, are not where its config says "
            "they come from: has the file changed, or does this version make others?"
        )
    return [
        Stored(problems[name], program, frozenset(outcomes), count, place)
        for (name, program), (outcomes, count, place) in sorted(found.items())
    ]


def regrade(pool: GraderPool, sample: Sequence[Stored], repeats: int) -> list[Regraded]:
    """Grade programs several times, each time all of them.

    Raises:
      GraderError: The grader failed.
    """
    jobs = [(stored.problem, stored.program) for stored in sample]
    # Equal jobs of one call share a grade: a call each time.
    rounds = [pool.grade(jobs) for _ in range(repeats)]
    return [
        Regraded(stored, tuple(grades))
        for stored, grades in zip(sample, zip(*rounds, strict=True), strict=True)
    ]


def rate(hits: int, count: int) -> dict[str, Any]:
    """A rate with its exact (Clopper-Pearson) interval; "not run" where there is nothing."""
    if not count:
        return {"hits": 0, "n": 0, "rate": "not run", "low": None, "high": None}
    interval = binomtest(hits, count).proportion_ci(_LEVEL)
    return {
        "hits": hits,
        "n": count,
        "rate": hits / count,
        "low": float(interval.low),
        "high": float(interval.high),
    }


def summarize(
    programs: Sequence[Stored], regraded: Sequence[Regraded], scale: float, repeats: int
) -> dict[str, Any]:
    """Everything that the audit says, as JSON data.

    Args:
      programs: All programs of the run.
      regraded: The sample.
      scale: The run's `grading.time_limit_scale`.
      repeats: Grades a program of the sample.
    """
    passed = [stored for stored in programs if Outcome.PASSED in stored.outcomes]
    flags_of = {id(stored): suspicious(stored.problem, stored.program) for stored in passed}
    flagged = [stored for stored in passed if flags_of[id(stored)]]
    share = {id(r): r.time_s / (r.stored.problem.time_limit_s * scale) for r in regraded}
    timeouts = [r for r in regraded if any(g.outcome is Outcome.TIMEOUT for g in r.grades)]
    near = [r for r in regraded if share[id(r)] >= _NEAR and r not in timeouts]
    flips = [r for r in regraded if r.flips]
    return {
        "programs": len(programs),
        "completions": sum(stored.count for stored in programs),
        "repeats": repeats,
        "outcomes": Counter(str(g.outcome) for r in regraded for g in r.grades),
        "reward_flips": rate(len(flips), len(regraded)),
        "timeouts": rate(len(timeouts), len(regraded)),
        "near_the_limit": rate(len(near), len(regraded)),
        "suspicious_passes": rate(len(flagged), len(passed)),
        "patterns": Counter(name for stored in flagged for name in flags_of[id(stored)]),
        "flipped": [_example(r.stored, [str(g.outcome) for g in r.grades]) for r in flips],
        "slow": [_example(r.stored, [f"{g.time_s:.2f} s" for g in r.grades]) for r in near],
        "flagged": [_example(stored, flags_of[id(stored)]) for stored in flagged],
    }


def _example(stored: Stored, what: Sequence[str]) -> dict[str, Any]:
    return {
        "problem": stored.problem.id,
        "file": stored.place,
        "stored": sorted(stored.outcomes),
        "what": list(what),
        "program": stored.program,
    }


def show(result: dict[str, Any], console: Console) -> None:
    """Print what a person should know of an audit."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in ("", "programs", "of", "rate", "95% interval"):
        table.add_column(name, justify="left" if not name else "right")
    for name in ("reward_flips", "timeouts", "near_the_limit", "suspicious_passes"):
        row = result[name]
        if row["n"]:
            cells = (f"{row['rate']:.4f}", f"[{row['low']:.4f}, {row['high']:.4f}]")
        else:
            cells = ("not run", "")
        table.add_row(name.replace("_", " "), str(row["hits"]), str(row["n"]), *cells)
    console.print(table)
    flips = result["reward_flips"]
    lines = [
        f"{result['completions']} completions hold {result['programs']} distinct programs; "
        f"{flips['n']} of them were graded {result['repeats']} times more.",
        "A flip: the reward was not the same every time, the stored one included. Near the limit: "
        f"at least {_NEAR:.0%} of the CPU limit, without reaching it.",
    ]
    if flips["n"]:
        lines.append(
            f"Grader noise can move a measured pass@1 by at most {flips['high']:.4f} (upper end, "
            "programs weighted alike)."
        )
    for name, count in sorted(result["patterns"].items()):
        lines.append(f"{name} ({count}): {MEANINGS[name]}.")
    for kind in ("flipped", "slow", "flagged"):
        for example in result[kind][:_EXAMPLES]:
            what = ", ".join(example["what"])
            lines.append(f"{kind}: {example['problem']} in {example['file']}: {what}")
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def audit(run: Path, sample: int, repeats: int, seed: int, workers: int) -> dict[str, Any]:
    """Audit a run.

    Raises:
      ValueError: The folder is no run, or its programs or problems cannot be read.
      GraderError: The grader failed.
    """
    file = run / rundir.CONFIG
    if not file.is_file():
        raise ValueError(f"--run={run} is no run: it has no {rundir.CONFIG}")
    config = json.loads(file.read_text())
    grading = config["grading"]
    sets = load_sets(config["problems"])
    problems = {problem.id: problem for problem in (*sets.train, *sets.panel, *sets.report)}
    programs = read_programs(run, problems)
    drawn = random.Random(seed).sample(programs, min(sample or len(programs), len(programs)))
    with GraderPool(
        workers,
        time_limit_scale=grading["time_limit_scale"],
        max_retries=grading["max_retries"],
        cpp_options=grading.get("cpp_options", "-std=c++17 -O1").split(),
    ) as pool:
        regraded = regrade(pool, drawn, repeats)
    result = summarize(programs, regraded, grading["time_limit_scale"], repeats)
    rundir.write_json(run / AUDIT, {"seed": seed, **result})
    return result


def main(_: list[str]) -> None:
    """Audit a run and print what was found; a user's mistake ends in one line."""
    try:
        if _RUN.value is None:
            raise ValueError("--run is missing: name a run folder, such as runs/tiny/A0/seed_7")
        run = Path(_RUN.value)
        result = audit(run, _SAMPLE.value, _REPEATS.value, _SEED.value, _WORKERS.value)
        show(result, Console())
        print(f"Every number and program: {run / AUDIT}")
    except (ValueError, OSError, GraderError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    app.run(main)
