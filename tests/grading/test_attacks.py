"""Test a corpus of hostile programs and of odd honest ones: each gets its verdict, and no more.

attacks*.jsonl have one program per line: id, category, language, code, test, expect ("pass" or
"fail"), and must_hold, the property to check. A Python program defines `solve`, and `test` holds
asserts. Otherwise `test` is JSON: one case of standard input and output, or the `code` of tests in
C++. A lone surrogate in `code` stands for a byte that is not valid UTF-8.
SELFREG_ATTACK_ROUNDS=20 runs the corpus 20 times.
"""

import fcntl
import json
import os
import random
import socket
import sys
import time
from pathlib import Path

import pytest

from selfreg.grading import GraderError, GraderPool
from selfreg.grading.ladder import LADDER
from selfreg.grading.sandbox import LOAD_FACTOR, Limits
from selfreg.run.records import Language, Outcome, Problem, StdioCase, Tests

CANARY = Path("/tmp/codegrader_canary")
PORT = 47653
ROUNDS = int(os.environ.get("SELFREG_ATTACK_ROUNDS", "1"))
TIME_LIMIT_S = 1.0
ATTACKS = [
    json.loads(line)
    for file in sorted(Path(__file__).parent.glob("attacks*.jsonl"))
    for line in file.open()
]
LEAKS = [row for row in ATTACKS if row["id"] == "prev_job_leak"]
# The compiler's limit of ten seconds ends these under any isolation, so they run under only one.
SLOW = ("cpp_macro_bomb",)


def read_attack(row):
    """Return the problem of a row, and its program."""
    language = Language(row["language"])
    has_input = row["test"].startswith('{"stdin"')
    if has_input:
        tests = Tests(stdio=(StdioCase(**json.loads(row["test"])),))
    elif row["test"].startswith('{"code"'):
        tests = Tests(**json.loads(row["test"]))
    else:
        tests = Tests(code=row["test"] or "\n")
    problem = Problem(
        id=row["id"],
        spec="",
        tests=tests,
        language=language,
        entry_point=None if has_input else "solve",
        time_limit_s=TIME_LIMIT_S,
        memory_limit_mb=512,
    )
    return problem, row["code"]


@pytest.fixture
def canary(monkeypatch):
    """Set up what no program may touch: a folder, a listener, and an environment variable."""
    with open(f"{CANARY}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the corpus has fixed paths, so runs take turns
        CANARY.mkdir(exist_ok=True)
        for name in ("keep.txt", "secret.txt"):
            (CANARY / name).write_text(f"canary of {name}")
        monkeypatch.setenv("CODEGRADER_CANARY_ENV", "canary of the environment")
        with socket.create_server(("127.0.0.1", PORT)) as server:
            server.setblocking(False)
            yield server
        for file in CANARY.iterdir():
            file.unlink()
        CANARY.rmdir()


@pytest.mark.parametrize("isolation", LADDER)
def test_attacks(isolation, canary, descendants):
    before = descendants()
    try:
        pool = GraderPool(4, isolation=isolation)  # most of the programs wait
    except GraderError as error:
        pytest.skip(f"not on this machine: {error}")
    order = random.Random(0)
    with pool:
        wrong, details = [], []
        for _ in range(ROUNDS):
            # Attacks run in parallel and in random order. prev_job_leak must run twice in a row.
            attacks = [r for r in ATTACKS if isolation == LADDER[-1] or r["id"] not in SLOW]
            rows = [*order.sample(attacks, len(attacks)), *LEAKS, *LEAKS]
            started = time.monotonic()
            grades = pool.grade([read_attack(row) for row in rows])
            took_s = time.monotonic() - started
            for row, grade in zip(rows, grades, strict=True):
                is_right = (grade.outcome is Outcome.PASSED) == (row["expect"] == "pass")
                if not is_right or grade.is_verdict == (row["category"] == "test-bug"):
                    wrong.append((row["id"], grade))
                details.append(grade.detail)
            # About fifty programs reach a limit of one or two seconds, and about ten compilers
            # reach their limit of ten.
            assert took_s < 150.0
        assert pool.counts["worker_restarts"] == pool.counts["retries"] == 0
    assert wrong == []
    assert descendants() <= before
    assert sorted(file.name for file in CANARY.iterdir()) == ["keep.txt", "secret.txt"]
    assert all((CANARY / n).read_text() == f"canary of {n}" for n in ("keep.txt", "secret.txt"))
    assert not any("canary of" in detail for detail in details)
    with pytest.raises(BlockingIOError):
        canary.accept()
    folders = [*sys.path, os.path.dirname(os.__file__)]
    assert not any((Path(folder) / "zz_codegrader_pwn.py").exists() for folder in folders)


@pytest.mark.parametrize(
    ("name", "why", "most_cpu_s"),
    [
        ("inf_loop_swallow", "used its 1.0 CPU seconds", TIME_LIMIT_S + 1.0),
        ("sleep", "waited for 2.0 s", 0.5),
        ("deadlock_lock", "waited for 2.0 s", 0.5),
        ("hang_at_exit_del", "AssertionError", 0.5),
    ],
)
def test_a_verdict_comes_in_time(pool, name, why, most_cpu_s):
    # CPU time, and waiting as the judge counts it, are the same on a busy machine. Wall-clock time
    # has a bound that holds on any machine.
    (row,) = [row for row in ATTACKS if row["id"] == name]
    started = time.monotonic()
    (grade,) = pool.grade([read_attack(row)])
    limits = Limits(TIME_LIMIT_S, TIME_LIMIT_S + 1.0, 512)
    assert time.monotonic() - started < LOAD_FACTOR * limits.wall_s + 5.0
    assert why in grade.detail
    assert grade.time_s < most_cpu_s


def test_broken_tests_are_told_from_failed_programs(pool):
    rows = [row for row in ATTACKS if row["category"] == "test-bug"]
    assert rows
    assert {grade.outcome for grade in pool.grade([read_attack(row) for row in rows])} == {
        Outcome.TEST_ERROR
    }
