"""Test which isolation works on this machine, what tests may use, and how fast grading is.

    selfreg doctor

For each layer of isolation, a child process attempts what the layer forbids. The exit code is 1 if
no isolation works.
"""

import time

from rich.console import Console
from rich.table import Table

from selfreg.grading.ladder import LADDER, LAYERS, NEEDED
from selfreg.grading.pool import GraderError, GraderPool
from selfreg.grading.reach import REFUSED
from selfreg.run.command import Command, Exit
from selfreg.run.command import run as run_command
from selfreg.run.records import Language, Outcome, Problem, Tests

_PROGRAMS = 400
_ADVICE = {
    "ns": "Run as root with CAP_SYS_ADMIN (docker run --cap-add=SYS_ADMIN "
    "--security-opt=apparmor=unconfined).",
    "userns": "Allow user namespaces: sysctl user.max_user_namespaces, "
    "kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0; "
    "a container's seccomp profile must allow unshare and mount.",
    "landlock": "Use a kernel of 5.13 or later with `landlock` in its list of security modules "
    "(lsm=... at boot), on x86_64 or aarch64.",
}


def examine(console: Console) -> bool:
    """Try every isolation of the ladder, and print which layers hold.

    Returns:
      Whether one of them works.
    """
    held: dict[str, tuple[str, ...]] = {}
    reasons: dict[str, str] = {}
    for isolation in LADDER:
        try:
            with GraderPool(1, isolation=isolation) as pool:
                held[isolation] = pool.layers
        except GraderError as error:
            reasons[isolation] = str(error)
    console.print(_table(held))
    best = next((isolation for isolation in LADDER if isolation in held), "")
    for isolation, reason in reasons.items():
        console.print(f"{isolation}: {reason}", markup=False, highlight=False)
        console.print(f"  {_ADVICE[isolation]}", markup=False, highlight=False)
    if not best:
        console.print("No isolation works here: the grader refuses to start.", style="bold red")
        return False
    missing = [name for name in LAYERS if name not in held[best]]
    console.print(f"The grader uses {best}: {', '.join(held[best])}.", highlight=False)
    if missing:
        console.print(f"Not there: {', '.join(missing)}.", highlight=False)
    console.print(_refused())
    _measure(console)
    return True


def _table(held: dict[str, tuple[str, ...]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in ("layer", "where it holds", *LADDER):
        table.add_column(name)
    for name, layer in LAYERS.items():
        cells = []
        for isolation in LADDER:
            if isolation not in held:
                cells.append("-")
            elif name in held[isolation]:
                cells.append("holds")
            else:
                cells.append("MISSING" if name in NEEDED[isolation] else "no")
        table.add_row(name, layer.meaning, *cells)
    return table


def _refused() -> Table:
    title = "Problems whose tests need any of this are refused (tests of Python functions)"
    table = Table(title=title, box=None, padding=(0, 2, 0, 0), pad_edge=False, title_justify="left")
    for name in ("what", "why", "shown by"):
        table.add_column(name)
    for what, (why, names) in REFUSED.items():
        table.add_row(what, why, names)
    return table


def _measure(console: Console) -> None:
    """Print the throughput on short programs, and whether C++ works."""
    problem = Problem(
        "doctor", "", Tests(code="assert f(1) == 2\nassert f(2) == 3\n" * 2), entry_point="f"
    )
    jobs = [(problem, f"def f(x):\n    return x + 1  # {number}\n") for number in range(_PROGRAMS)]
    cpp = Problem(
        "doctor/cpp",
        "",
        Tests(code="int main() { return f(1) - 2; }"),
        language=Language.CPP,
        entry_point="f",
        starter="int f(int x) {\n",
    )
    with GraderPool() as pool:
        pool.grade(jobs[: _PROGRAMS // 10])
        started = time.monotonic()
        grades = pool.grade(jobs)
        took_s = time.monotonic() - started
        passed = sum(grade.outcome is Outcome.PASSED for grade in grades)
        console.print(
            f"Python: {_PROGRAMS / took_s:.0f} programs/s on {pool.workers} workers "
            f"(n = {_PROGRAMS} short ones, {passed} passed as they should, one run); "
            "`python -m benchmarks.grading` measures CPU time, beside other graders.",
            highlight=False,
        )
        (grade,) = pool.grade([(cpp, "int f(int x) { return x + 1; }\n")])
        works = grade.outcome is Outcome.PASSED
        what = "works." if works else f"does not work. {grade.outcome.value}: {grade.detail}"
        console.print(f"C++: {what}", markup=False, highlight=False)


def main(_: list[str]) -> int:
    """Examine this machine and return the exit code."""
    return Exit.OK if examine(Console()) else Exit.FAILED


def run() -> None:
    """Run the command."""
    run_command(main, Command("doctor", "selfreg.grading.doctor", ""))


if __name__ == "__main__":
    run()
