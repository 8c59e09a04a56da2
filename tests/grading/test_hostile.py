"""Test variants of programs that try to stop the grader, and noise on every stream."""

import os
import time

import pytest

from benchmarks.grading_hostile import hostile_programs, noisy_programs
from selfreg.grading import GraderError, GraderPool
from selfreg.grading.ladder import LADDER
from selfreg.grading.namespaces import SCRATCH_MB
from selfreg.run.records import Language, Outcome, Problem, StdioCase, Tests

RIGHT = "def solve(a, b):\n    return a + b\n"
PROBLEM = Problem(
    "test/0",
    "",
    Tests(code="nt = winreg = test = 5\nassert solve(2, 3) == nt\nassert solve(10, -4) == 6\n"),
    entry_point="solve",
    time_limit_s=0.3,
    memory_limit_mb=512,
)


@pytest.fixture(scope="module", params=LADDER)
def jail(request):
    try:
        with GraderPool(4, isolation=request.param, max_retries=0) as pool:  # most programs wait
            yield pool
    except GraderError as error:
        pytest.skip(f"not on this machine: {error}")


def test_no_variant_stops_a_worker(jail, descendants):
    before = descendants()
    programs = list(hostile_programs(jail.isolation.count("e"), 100))
    grades = jail.grade([(PROBLEM, program) for program in programs])
    pairs = zip(programs, grades, strict=True)
    wrong = [(p, g) for p, g in pairs if g.outcome is Outcome.PASSED or not g.is_verdict]
    assert wrong == []
    assert jail.counts["worker_restarts"] == 0
    assert descendants() == before
    assert jail.grade([(PROBLEM, RIGHT)])[0].outcome is Outcome.PASSED


def test_noise_is_nobodys_business(jail):
    # If a worker's programs shared one pipe, a few of them would fill it and block the next.
    programs = list(noisy_programs(RIGHT, 0, 120))
    grades = jail.grade([(PROBLEM, program) for program in programs])
    assert [g for g in grades if g.outcome is not Outcome.PASSED] == []


def test_noisy_tests_and_scripts(jail):
    noise = "import os, sys\nsys.stderr.write('x' * 70_000)\nos.write(2, b'x' * 70_000)\n"
    noisy = Problem("noisy", "", Tests(code=noise + PROBLEM.tests.code), entry_point="solve")
    script = Problem("script", "", Tests(stdio=(StdioCase("2 3\n", "5\n"),)))
    sums = "print(sum(map(int, input().split())))\n"
    cpp = Problem("cpp", "", script.tests, Language.CPP)
    shout = 'for (int i = 0; i < 9999; i++) fputs("0123456789", stderr); puts("5");'
    jobs = [(noisy, f"{RIGHT}# {i}") for i in range(8)]
    jobs += [(script, f"{noise}{sums}# {i}") for i in range(8)]
    jobs += [(cpp, f"#include <cstdio>\nint main() {{ {shout} }}\n")]
    grades = jail.grade(jobs)
    assert [g for g in grades if g.outcome is not Outcome.PASSED] == []


@pytest.mark.parametrize(
    "wait",
    [
        "os.write(3, b'\\0\\x0f\\0\\0')\n    while 1: os.write(3, b' '); time.sleep(0.0005)",
        "while 1: os.fsync(file)",
        "while 1: time.sleep(0.01)",
        "return iter(lambda: time.sleep(0.01) or 1, 2)",
    ],
    ids=["drips", "flushes", "sleeps", "yields slowly"],
)
def test_a_program_has_so_much_wall_time(jail, wait):
    code = "for x in solve(2, 3): pass\nassert solve(2, 3) == 5\n"
    problem = Problem("wall", "", Tests(code=code), entry_point="solve", time_limit_s=0.3)
    program = f"import os, time\nfile = os.open(os.__file__, 0)\ndef solve(a, b):\n    {wait}\n"
    started = time.monotonic()
    (grade,) = jail.grade([(problem, program)])
    assert grade.outcome is Outcome.TIMEOUT
    # The limit is 0.3 s, plus 1 s for waiting, plus five times 0.3 s: 2.8 s. On a busy machine it
    # is up to 8.4 s.
    assert time.monotonic() - started < 8.4 + 4.0


def test_tasks_and_scratch_space_are_bounded(jail):
    threads = (
        "import threading, time\nthreading.stack_size(65536)\nn = 0\n"
        "try:\n    while n < 3000:\n"
        "        threading.Thread(target=time.sleep, args=(9,), daemon=True).start(); n += 1\n"
        "except RuntimeError: pass\n"
        "def solve(a, b):\n    return a + b if 64 <= n < 2000 else n\n"
    )
    room = (
        "import os\ndef solve(a, b):\n    try:\n        for i in range(96):\n"
        "            f = os.open(str(i), os.O_CREAT | os.O_RDWR)\n"
        "            os.posix_fallocate(f, 0, 16 << 20); os.close(f)\n"
        "    except OSError: return a + b\n"
    )
    problem = Problem(
        "bounds", "", Tests(code="assert solve(2, 3) == 5\n"), entry_point="solve", time_limit_s=3.0
    )
    grades = jail.grade([(problem, threads), (problem, room)])
    assert [grade.outcome for grade in grades] == [Outcome.PASSED] * 2, grades


def test_what_recursive_scripts_begin_with(jail):
    problem = Problem("deep", "", Tests(stdio=(StdioCase("2 3\n", "5\n"),)), memory_limit_mb=512)
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_STACK, (1 << {}, -1))\n"
    scripts = [
        f"{limit.format(26)}print(sum(map(int, input().split())))\n",
        f"{limit.format(29)}print(sum(map(int, input().split())))\n",
        "import sys, threading\nsys.setrecursionlimit(10**6)\nthreading.stack_size(2**30)\n"
        "def f(n): return n and 1 + f(n - 1)\n"
        "def main(): print(f(20000) - 20000 + sum(map(int, input().split())))\n"
        "t = threading.Thread(target=main); t.start(); t.join()\n",
        "print(sum(map(int, open('/dev/stdin').read().split())))\n",
        "from pathlib import Path\nprint(sum(map(int, Path('/dev/stdin').read_text().split())))\n",
        "a, b = map(int, open('/proc/self/fd/0').read().split())\n"
        "open('/dev/stdout', 'w').write(str(a + b))\n",
    ]
    grades = jail.grade([(problem, script) for script in scripts])
    assert [g for g in grades if g.outcome is not Outcome.PASSED] == []


def test_files_of_all_sizes_are_bounded_together(jail):
    # Files of a worker without its own file system are checked only from time to time.
    program = (
        "import os, time\ndef solve(a, b):\n    for i in range(96):\n"
        "        if i % 8 == 0: os.mkdir('d', 0o300); os.chdir('d')\n"
        "        with open(str(i), 'wb') as file: file.write(bytes(8 << 20))\n"
        "        time.sleep(0.03)\n    return a + b\n"
    )
    problem = Problem(
        "bounds", "", Tests(code="assert solve(2, 3) == 5\n"), entry_point="solve", time_limit_s=4.0
    )
    (grade,) = jail.grade([(problem, program)])
    assert grade.outcome is Outcome.EXCEPTION
    assert f"{SCRATCH_MB} MiB" in grade.detail or "No space left" in grade.detail


@pytest.mark.skipif(os.geteuid() != 0, reason="the kernel bounds the threads of all but root")
def test_threads_of_root_are_bounded(tmp_path, monkeypatch):
    # If no other user can reach the scratch folder, programs run as root.
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    os.chmod(tmp_path, 0o700)
    start = (
        "import threading, time\nthreading.stack_size(65536)\ndef start():\n"
        "    while True: threading.Thread(target=time.sleep, args=(99,), daemon=True).start()\n"
    )
    at_once = f"{start}def solve(a, b):\n    start()\n"
    # The judge does not check the threads while its tests run.
    later = f"{start}def solve(a, b):\n    threading.Thread(target=start).start()\n    return 5\n"
    few = f"{start.replace('while True', 'for _ in range(99)')}start()\n{RIGHT}"
    tests = "import time\nfive = solve(2, 3)\ntime.sleep(0.5)\nassert five == 5\n"
    problem = Problem("many", "", Tests(code=tests), entry_point="solve", time_limit_s=9.0)
    with GraderPool(1, isolation="landlock", max_retries=0) as pool:
        assert "user" not in pool.layers
        grades = pool.grade([(problem, program) for program in (at_once, later, few)])
        assert pool.counts["worker_restarts"] == 0
    wanted = [Outcome.EXCEPTION, Outcome.EXCEPTION, Outcome.PASSED]
    assert [grade.outcome for grade in grades] == wanted, grades
