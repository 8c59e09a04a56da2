"""Measure the cost of C++, and check the verdicts of reference solutions and of forgers.

A C++ program is either new to the pool, which compiles and runs it, or known, so that it only runs.
The first program of a pool is listed apart, because it also sets up the toolchain.
"""

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from benchmarks.grading_cases import Job, cpp_functions, cpp_programs
from benchmarks.grading_forgers import python_forgers
from benchmarks.grading_forgers_cpp import cpp_forgers
from benchmarks.processes import measure
from benchmarks.table import Aim, load_average, show, show_aims, spread
from selfreg.data.problems import load_problems
from selfreg.grading import GraderError, GraderPool
from selfreg.grading.ladder import LADDER
from selfreg.run.records import Grade, Outcome, Problem

_COLD_AIM_S, _CACHED_AIM_MS = 0.45, 10.0
_CACHED_RUNS = 20
_MBPP_LIMIT_S = 3.0


# --- C++ ------------------------------------------------------------------------------------------


class _Costs(NamedTuple):
    """CPU seconds of grading C++ programs.

    Attributes:
      start_s: CPU seconds of the pool's start.
      new_s: CPU seconds of each new program, in order. Each is the first of its problem.
      further_s: CPU seconds of another program of each problem, whose tests are already compiled.
      cached_s: CPU seconds of a program that is itself already compiled.
    """

    start_s: float
    new_s: list[float]
    further_s: list[float]
    cached_s: float

    @property
    def cold_s(self) -> list[float]:
        """CPU seconds of the new programs except the first."""
        return self.new_s[1:]


def show_cpp(programs: int) -> None:
    """Print CPU seconds of new and of compiled programs, and the aims."""
    kinds = {
        "function, seven headers": cpp_functions(programs),
        "whole, bits/stdc++.h": cpp_programs(programs),
    }
    costs = {kind: _measure(jobs) for kind, jobs in kinds.items()}
    show(
        f"C++: CPU s, {programs} programs of each kind",
        ["kind", "start and first", "cold", "further", "cached ms", "new ones in order"],
        [
            [kind, f"{cost.start_s + cost.new_s[0]:.2f}", spread(cost.cold_s),
             spread(cost.further_s[1:]),
             f"{1000 * cost.cached_s:.1f}", " ".join(f"{s:.2f}" for s in cost.new_s)]
            for kind, cost in costs.items()
        ],
        "Start and first: of the pool, which sets the toolchain up. Cold: compile and run, median "
        "(min..max). Further: the same for another program of the problem. "
        f"Cached: a run, mean of {_CACHED_RUNS} of each. {load_average()}",
    )  # fmt: skip
    show_aims([aim for kind, cost in costs.items() for aim in _cpp_aims(kind, cost)])


def _measure(jobs: Sequence[Job]) -> _Costs:
    pool, start = measure(lambda: GraderPool(1))
    with pool:
        new_s, further_s = [], []
        for problem, program in jobs:
            new_s.append(_cpu_s(pool, [(problem, program)]))
            further_s.append(_cpu_s(pool, [(problem, f"{program}// another\n")]))
        cached_s = sum(_cpu_s(pool, jobs) for _ in range(_CACHED_RUNS))
    return _Costs(start.cpu_s, new_s, further_s, cached_s / _CACHED_RUNS / len(jobs))


def _cpu_s(pool: GraderPool, jobs: Sequence[Job]) -> float:
    grades, cost = measure(lambda: pool.grade(jobs))
    for (problem, _), grade in zip(jobs, grades, strict=True):
        if grade.outcome is not Outcome.PASSED:
            raise RuntimeError(f"{problem.id} must pass: {grade}")
    return cost.cpu_s


def _cpp_aims(kind: str, cost: _Costs) -> list[Aim]:
    cold_s, cached_ms = statistics.median(cost.cold_s), 1000 * cost.cached_s
    return [
        Aim(f"{kind}: at most {_COLD_AIM_S} CPU-s cold", f"{cold_s:.2f}", cold_s <= _COLD_AIM_S),
        Aim(
            f"{kind}: at most {_CACHED_AIM_MS:.0f} ms cached",
            f"{cached_ms:.1f}",
            cached_ms <= _CACHED_AIM_MS,
        ),
    ]


# --- Data sets ------------------------------------------------------------------------------------


class _Check(NamedTuple):
    """A data set, the programs that answer its problems, and their expected outcomes.

    Attributes:
      name: The name in the table.
      source: As in `load_problems`; None if --data is not given.
      answer: Makes the program for a problem.
      wanted: Whether the programs should pass.
      least: The least number of programs with the wanted outcome.
      limit_s: The time limit for all problems, in seconds; None keeps their own.
    """

    name: str
    source: str | None
    answer: Callable[[Problem], str | None]
    wanted: bool
    least: int
    limit_s: float | None = None


def _canonical(problem: Problem) -> str | None:
    return problem.solution


def _return_none(problem: Problem) -> str:
    return problem.starter + "    return None\n"


def show_data(workers: int, folder: str | None) -> None:
    """Print how many programs of each set have the wanted outcome, and list the others."""
    checks = [
        _Check("HumanEval, canonical", "humaneval", _canonical, True, 164),
        _Check("HumanEval, return None", "humaneval", _return_none, False, 164),
        _Check(
            f"MBPP, canonical, {_MBPP_LIMIT_S:.0f} s",
            folder and f"mbpp:{folder}/mbpp/mbpp.jsonl",
            _canonical, True, 973, _MBPP_LIMIT_S,
        ),
        _Check(
            "HumanEval-X C++, canonical",
            folder and f"jsonl:{folder}/humaneval-x/humaneval_cpp.jsonl.gz",
            _canonical, True, 161,
        ),
    ]  # fmt: skip
    rows, aims, odd = [], [], []
    with GraderPool(workers) as pool:
        for check in checks:
            row, aim, lines = _run_check(pool, check)
            rows.append(row)
            aims += aim
            odd += lines
    show(
        "Programs whose verdict is known",
        ["set", "programs", "as known", "seconds", "CPU s"],
        rows,
        "\n".join([*odd, load_average()]),
    )
    show_aims(aims)


def _run_check(pool: GraderPool, check: _Check) -> tuple[list[str], list[Aim], list[str]]:
    """Run a check; return its table row, its aim, and a line for each unexpected outcome."""
    if check.source is None:
        return [check.name, "not run: --data=DIR", "", "", ""], [], []
    try:
        problems = load_problems(check.source)
    except (ImportError, OSError) as error:
        return [check.name, f"not run: {error}", "", "", ""], [], []
    if check.limit_s is not None:
        problems = tuple(replace(p, time_limit_s=check.limit_s) for p in problems)
    jobs = [(problem, check.answer(problem)) for problem in problems]
    grades, cost = measure(lambda: pool.grade(jobs))
    odd = [
        f"{check.name}: {problem.id} {_describe(grade)}"
        for problem, grade in zip(problems, grades, strict=True)
        if (grade.outcome is Outcome.PASSED) is not check.wanted
    ]
    count, good = len(problems), len(problems) - len(odd)
    verb = "pass" if check.wanted else "fail"
    aim = Aim(f"{check.name}: {check.least} {verb}", f"{good} of {count}", good >= check.least)
    row = [check.name, str(count), str(good), f"{cost.wall_s:.1f}", f"{cost.cpu_s:.1f}"]
    return row, [aim], odd


def _describe(grade: Grade) -> str:
    return f"{grade.outcome.value} after {grade.time_s:.1f} s: {grade.detail:.100}"


# --- Forgers --------------------------------------------------------------------------------------


def show_forgers(workers: int, count: int, seed: int) -> None:
    """Print how many random wrong programs fail, in each isolation that works on this machine."""
    if not count:
        print("forgers: not run: --forgers=N\n")
        return
    drawn = {"Python": list(python_forgers(seed, count)), "C++": list(cpp_forgers(seed, count))}
    rows, odd, tried = [], [], 0
    for isolation in LADDER:
        try:
            pool = GraderPool(workers, isolation=isolation, max_retries=0)
        except GraderError as error:
            rows.append([isolation, f"not run: {error}", "", "", "", ""])
            continue
        with pool:
            for language, jobs in drawn.items():
                grades, cost = measure(partial(pool.grade, jobs))
                pairs = zip(jobs, grades, strict=True)
                bad = [
                    f"{isolation}: {problem.id} {_describe(grade)}\n{program}"
                    for (problem, program), grade in pairs
                    if grade.outcome is Outcome.PASSED or not grade.is_verdict
                ]
                odd += bad
                tried += len(jobs)
                outcomes = Counter(grade.outcome.value for grade in grades)
                told = ", ".join(f"{n} {outcome}" for outcome, n in outcomes.most_common())
                row = [isolation, language, str(len(jobs)), str(len(jobs) - len(bad)), told]
                rows.append([*row, f"{cost.cpu_s:.0f}"])
    show(
        f"Programs that forge a pass, seed {seed}",
        ["isolation", "language", "tried", "right", "outcomes", "CPU s"],
        rows,
        "\n".join([*odd, load_average()]),
    )
    show_aims([Aim("no forger passes, and each has a verdict", f"{len(odd)} of {tried}", not odd)])
