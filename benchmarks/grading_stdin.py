"""Measure programs that read standard input: megabytes per second, and small cases per second."""

from collections.abc import Sequence
from functools import partial

from benchmarks.grading_cases import Job
from benchmarks.processes import measure
from benchmarks.table import Aim, load_average, show, show_aims, spread
from selfreg.grading import GraderPool
from selfreg.run.records import Outcome, Problem, StdioCase, Tests

_CASES, _BIG, _SMALL, _MB = 20, 16, 40, 2
_AIM_MB_S, _AIM_CASES_S = 40, 300


def show_stdin(workers: int, rounds: int) -> None:
    """Print the wall-clock and CPU cost of programs with standard input, and the aims."""
    kinds = {f"{_MB} MB a case": big_inputs(), "small cases": small_cases()}
    rows, rates = [], []
    with GraderPool(workers) as pool:
        for kind, jobs in kinds.items():
            cases = _CASES * len(jobs)
            costs = [measure(partial(_grade, pool, jobs))[1] for _ in range(rounds)]
            walls = [cases / cost.wall_s for cost in costs]
            rates.append(max(walls))
            rows.append(
                [
                    kind,
                    str(cases),
                    spread(walls, 0),
                    spread([1000 * c.cpu_s / cases for c in costs]),
                ]
            )
    show(
        f"Programs with standard input: {workers} workers, {rounds} rounds, median (min..max)",
        ["kind", "cases", "cases/s", "CPU ms a case"],
        rows,
        f"Each of {_BIG} and {_SMALL} programs of one problem has {_CASES} cases. {load_average()}",
    )
    show_aims(
        [
            Aim(f"at least {_AIM_MB_S} MB/s", f"{_MB * rates[0]:.0f}", _MB * rates[0] >= _AIM_MB_S),
            Aim(f"at least {_AIM_CASES_S} cases/s", f"{rates[1]:.0f}", rates[1] >= _AIM_CASES_S),
        ]
    )


def big_inputs() -> list[Job]:
    """Make programs that read the whole of a long input."""
    text = "123456789 " * (_MB * 1_000_000 // 10)
    texts = [text[: len(text) - i] for i in range(_CASES)]
    problem = _problem("big", [StdioCase(text, f"{len(text)}\n") for text in texts])
    return [(problem, f"import sys\nprint(len(sys.stdin.read()))  # {i}\n") for i in range(_BIG)]


def small_cases() -> list[Job]:
    """Make programs that add two numbers."""
    problem = _problem("small", [StdioCase(f"{i} 2\n", f"{i + 2}\n") for i in range(_CASES)])
    return [(problem, f"print(sum(map(int, input().split())))  # {i}\n") for i in range(_SMALL)]


def _problem(name: str, cases: list[StdioCase]) -> Problem:
    return Problem(name, "", Tests(stdio=tuple(cases)), time_limit_s=10.0)


def _grade(pool: GraderPool, jobs: Sequence[Job]) -> None:
    for grade in pool.grade(jobs):
        if grade.outcome is not Outcome.PASSED:
            raise RuntimeError(f"a program must pass: {grade}")
