"""Check verdicts while processes of the pool are killed, and on a busy machine.

This is a part of benchmarks.grading. The pool under attack runs in a process of its own,
`python -m benchmarks.grading_stress`. So the benchmark adopts orphans, but is not itself among the
processes that it counts and kills.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from benchmarks.grading_cases import (
    SLEEP,
    WORK,
    Job,
    cpp_programs,
    mixed_jobs,
    python_cases,
    timed_jobs,
)
from benchmarks.grading_hostile import hostile_programs, noisy_programs
from benchmarks.processes import LineServer, descendants, kill_descendant, reap
from benchmarks.table import Aim, load_average, show, show_aims
from selfreg.grading import GraderPool
from selfreg.run.records import Grade, Outcome, Problem

# The time between kills, as a multiple of the pool's own start time. With more frequent kills, no
# worker would ever finish starting.
_KILL_EVERY_STARTS = (0.1, 0.4)
_PROGRAMS_A_CALL = 400
_HOSTILE, _HOSTILE_SHARE = "hostile", 0.1
_NOISE_MB = 64  # other processes change the machine's memory too
_LIMIT_S, _ENOUGH_S, _TOO_MUCH_S = 1.0, (0.45, 0.5, 0.55), (1.2, 1.3, 1.4)
_END_S = 5.0
_SPARE, _BUILD_UP_S = 2, 180.0


# --- Chaos ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Footprint:
    """The resources of a process with a pool, and the memory use of the whole machine.

    Attributes:
      processes: Living descendants of the process.
      files: Open file descriptors of the process.
      temporary: Entries named selfreg-* in the folder for temporary files.
      mounts: Mounts that the process sees.
      cgroups: Control groups of the machine.
      shared_mb: MiB in tmpfs and other shared memory, of the whole machine.
      used_mb: MiB that are not available, including shared memory, of the whole machine.
    """

    processes: int
    files: int
    temporary: int
    mounts: int
    cgroups: int
    shared_mb: int
    used_mb: int


def footprint() -> Footprint:
    """Measure the footprint of the calling process."""
    with open("/proc/meminfo") as file:
        memory = {line.partition(":")[0]: int(line.split()[1]) >> 10 for line in file}
    with open("/proc/self/mounts") as file:
        mounts = len(file.readlines())
    return Footprint(
        processes=sum(p.state != "Z" for p in descendants(os.getpid())),
        files=len(os.listdir("/proc/self/fd")),
        temporary=len(list(Path(tempfile.gettempdir()).glob("selfreg-*"))),
        mounts=mounts,
        cgroups=sum(1 for _ in os.walk("/sys/fs/cgroup")),
        shared_mb=memory["Shmem"],
        used_mb=memory["MemTotal"] - memory["MemAvailable"],
    )


@dataclass(frozen=True, slots=True)
class Survived:
    """The final report of the process with the pool.

    Attributes:
      lost: The number of programs without a grade.
      raised: Errors that the pool raised.
      changed: Outcomes that differ from those of the same programs before the killing.
      counts: The pool's own counts.
      prints: The process's footprint before the pool, with a warm pool, after the killing, and with
        the pool closed.
    """

    lost: int
    raised: list[str]
    changed: list[str]
    counts: dict[str, int]
    prints: dict[str, Footprint]


def serve_chaos(programs: int, workers: int) -> None:
    """Grade programs while the parent kills processes of the pool, and print a report.

    Two lines on standard input tell when the killing has begun and when it has ended.
    """
    jobs = _chaos_jobs()
    started = time.perf_counter()
    prints, changed, raised, lost = {"before": footprint()}, [], [], 0
    with GraderPool(workers, max_retries=1000) as pool:
        start_s = time.perf_counter() - started
        known = pool.grade(jobs)
        prints["warm"] = footprint()
        _handshake(start_s)
        for begin in range(0, programs, len(jobs)):
            count = min(len(jobs), programs - begin)
            grades = []
            try:
                grades = pool.grade(jobs[:count])
            except Exception as error:  # any error at all is a finding
                raised.append(repr(error))
            lost += count - len(grades)
            changed += _changes(jobs, known, grades)
            print(f"{begin + count:,} of {programs:,}", end="\r", file=sys.stderr)
        counts = pool.counts
        _handshake(0.0)
        # In this undisturbed round, the pool replaces the last killed processes.
        changed += _changes(jobs, known, pool.grade(jobs))
        prints["killed at"] = footprint()
    prints["closed"] = footprint()
    print(json.dumps(asdict(Survived(lost, raised, changed, counts, prints))), flush=True)


def _handshake(number: float) -> None:
    print(number, flush=True)
    sys.stdin.readline()


def _chaos_jobs() -> list[Job]:
    """Make short programs, of which a tenth are hostile or noisy, and some of other kinds."""
    count = int(_PROGRAMS_A_CALL * _HOSTILE_SHARE)
    cases = python_cases(_PROGRAMS_A_CALL - count)
    jobs = [case.job for case in cases]
    problem, solution = next(case.job for case in cases if case.right)
    problem = replace(problem, id=_HOSTILE, time_limit_s=0.3)
    bad = [*hostile_programs(0, count // 2), *noisy_programs(solution, 0, count // 2)]
    for i, program in enumerate(bad):
        jobs.insert(i * len(jobs) // len(bad), (problem, program))
    others = mixed_jobs() + (cpp_programs(2) if shutil.which("g++") else [])
    for i, job in enumerate(others):
        jobs.insert(i * len(jobs) // len(others), job)
    return jobs


def _changes(jobs: list[Job], known: list[Grade], grades: list[Grade]) -> list[str]:
    """Describe the grades whose outcome is not the known one. `grades` may be shorter than `jobs`.

    A hostile program may fail by its memory limit one time and by its time limit another. So only
    whether it passes, and whether the grade is a verdict, counts for it.
    """

    def told(problem: Problem, grade: Grade) -> object:
        passed = grade.outcome is Outcome.PASSED
        return (passed, grade.is_verdict) if problem.id == _HOSTILE else grade.outcome

    return [
        f"{problem.id}: {was.outcome.value}, then {now.outcome.value} ({now.detail})"
        for (problem, _), was, now in zip(jobs, known, grades, strict=False)
        if told(problem, now) != told(problem, was)
    ]


def show_chaos(workers: int, programs: int) -> None:
    """Kill processes of a pool while it grades, and print the effects on it and on the machine."""
    if not programs:
        print("chaos: not run: --chaos=N\n")
        return
    known = {process.pid for process in descendants(os.getpid())}
    begun = time.perf_counter()
    with LineServer(["-m", __spec__.name, str(programs), str(workers)]) as arena:
        start_s = arena.receive()
        arena.send(0)
        kills = _kill(arena, start_s)
        arena.receive()
        arena.send(0)
        told = arena.receive()
    wall_s = time.perf_counter() - begun
    strays = _strays(known)
    prints = {when: Footprint(**fields) for when, fields in told.pop("prints").items()}
    survived = Survived(**told, prints=prints)
    by_depth = ", ".join(f"{kills[depth]} {depth} below" for depth in sorted(kills))
    show(
        f"{programs:,} programs and {kills.total():,} kills",
        ["", *prints],
        [
            [name, *(f"{asdict(taken)[name]:,}" for taken in prints.values())]
            for name in Footprint.__dataclass_fields__
        ],
        f"The pool started in {start_s:.2f} s; of its processes one was killed every "
        f"{'-'.join(map(str, _KILL_EVERY_STARTS))} times that: "
        f"{by_depth} the pool's own, in {wall_s:.0f} s. Retries: {survived.counts['retries']:,}; "
        f"worker restarts: {survived.counts['worker_restarts']:,}. {load_average()}",
    )
    show_aims(_chaos_aims(survived, strays))


def _kill(arena: LineServer, start_s: float) -> Counter[int]:
    """Kill random processes until the pool's process writes a line.

    Returns:
      The number of kills by depth in the process tree.
    """
    rng, kills = random.Random(0), Counter[int]()
    while not arena.is_ready(start_s * rng.uniform(*_KILL_EVERY_STARTS)):
        victims = [process for process in descendants(arena.pid) if process.state != "Z"]
        if victims and kill_descendant(victim := rng.choice(victims), arena.pid):
            kills[victim.depth] += 1
        reap(descendants(os.getpid()))
    return kills


def _strays(known: set[int]) -> list[str]:
    """Return the orphans that this process adopted and that do not end within _END_S seconds."""
    deadline = time.monotonic() + _END_S
    while True:
        reap(descendants(os.getpid()))
        living = [p for p in descendants(os.getpid()) if p.pid not in known and p.state != "Z"]
        if not living or time.monotonic() > deadline:
            return [f"{process.pid} {process.state} {process.name}" for process in living]
        time.sleep(0.05)


def _chaos_aims(survived: Survived, strays: list[str]) -> list[Aim]:
    changes = len(survived.changed)
    aims = [
        Aim("no program lost", _listed(survived.lost, survived.raised), not survived.lost),
        Aim("no verdict changed", _listed(changes, survived.changed), not changes),
        Aim("no process left behind", _listed(len(strays), strays), not strays),
    ]
    for begin, end in (("warm", "killed at"), ("before", "closed")):
        old, new = asdict(survived.prints[begin]), asdict(survived.prints[end])
        grown = {name: new[name] - old[name] for name in old}
        bad = [name for name in grown if grown[name] > (_NOISE_MB if name.endswith("_mb") else 0)]
        measured = ", ".join(f"{name} {by:+}" for name, by in grown.items())
        aims.append(Aim(f"no growth from {begin} to {end}", measured, not bad))
    return aims


def _listed(count: int, examples: list[str]) -> str:
    return "; ".join([f"{count:,}", *examples[:5]])


# --- Load -----------------------------------------------------------------------------------------


def show_load(workers: int, programs: int, rounds: int, load: int) -> None:
    """Grade on an idle and on a busy machine, and print how many verdicts change."""
    known = [(case.job, case.right) for case in python_cases(programs)]
    known += [(job, True) for job in timed_jobs(_LIMIT_S, _ENOUGH_S, WORK)]
    known += [(job, True) for job in timed_jobs(_LIMIT_S, _ENOUGH_S, SLEEP)]
    known += [(job, False) for job in timed_jobs(_LIMIT_S, _TOO_MUCH_S, WORK)]
    jobs = [job for job, _ in known]
    with GraderPool(workers) as pool:
        calm = _run(pool, "idle", jobs)
        with _busy(load):
            runs = [_run(pool, f"busy {i + 1}", jobs) for i in range(rounds)]
    wrong = sum(
        (grade.outcome is Outcome.PASSED) is not right
        for grade, (_, right) in zip(calm.grades, known, strict=True)
    )
    flips = {run.name: _changes(jobs, calm.grades, run.grades) for run in (calm, *runs)}
    show(
        f"{len(jobs)} programs",
        ["machine", "load average", "seconds", "verdicts changed"],
        [
            [run.name, f"{run.load:.1f}", f"{run.wall_s:.1f}", str(len(flips[run.name]))]
            for run in (calm, *runs)
        ],
        "\n".join(chain.from_iterable(flips.values()))
        or f"{len(jobs) - programs} programs take about half of their {_LIMIT_S} s, or too much.",
    )
    count = sum(map(len, flips.values()))
    show_aims(
        [
            Aim("right verdicts when idle", f"{wrong} are not", not wrong),
            Aim(f"no verdict changes at a load of {load}", str(count), not count),
        ]
    )


class _Run(NamedTuple):
    name: str
    load: float
    wall_s: float
    grades: list[Grade]


def _run(pool: GraderPool, name: str, jobs: list[Job]) -> _Run:
    begun = time.perf_counter()
    grades = pool.grade(jobs)
    return _Run(name, os.getloadavg()[0], time.perf_counter() - begun, grades)


@contextmanager
def _busy(load: int) -> Iterator[None]:
    """Keep the machine at a load average, which takes a minute or two to reach."""
    command = [sys.executable, "-I", "-S", "-c", "while True: pass"]
    # Each process has its own session. A kernel that shares cores by session would give all the
    # processes of one session a single share.
    processes = [subprocess.Popen(command, start_new_session=True) for _ in range(load + _SPARE)]
    try:
        deadline = time.monotonic() + _BUILD_UP_S
        while os.getloadavg()[0] < load and time.monotonic() < deadline:
            time.sleep(1.0)
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


if __name__ == "__main__":
    serve_chaos(*map(int, sys.argv[1:]))
