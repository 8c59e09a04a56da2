"""Test programs that use too much: each is bounded, has the right outcome, and leaves nothing."""

import subprocess
import sys
import time

import pytest

from selfreg.run.records import Language, Outcome

RIGHT = "def add(a, b):\n    return a + b\n"

HUNGRY = {
    "loop": ("while True: pass\n", Outcome.TIMEOUT),
    "loop that catches all": (
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass\n",
        Outcome.TIMEOUT,
    ),
    "loop in C": ("10 ** (10 ** 9)\n", Outcome.TIMEOUT),
    "loop in C with a lock": ("import re\nre.match(r'(a+)+$', 'a' * 64 + 'b')\n", Outcome.TIMEOUT),
    "loop that handles the signal": (
        "import signal\nsignal.signal(signal.SIGXCPU, lambda *_: None)\nwhile True: pass\n",
        Outcome.TIMEOUT,
    ),
    "loop in a thread": (
        "import threading\n"
        "def loop():\n    while True: pass\n"
        "thread = threading.Thread(target=loop)\nthread.start()\nthread.join()\n",
        Outcome.TIMEOUT,
    ),
    "error that never prints": (
        "class Evil(Exception):\n    def __str__(self):\n        while True: pass\nraise Evil\n",
        Outcome.TIMEOUT,
    ),
    "sleep": ("import time\ntime.sleep(3600)\n", Outcome.TIMEOUT),
    "deadlock": (
        "import threading\nlock = threading.Lock()\nlock.acquire(), lock.acquire()\n",
        Outcome.TIMEOUT,
    ),
    "stopped by itself": ("import os\nos.kill(os.getpid(), 19)\n", Outcome.TIMEOUT),
    "memory at once": ("x = bytearray(1 << 40)\n", Outcome.MEMORY),
    "memory bit by bit": ("x = []\nwhile True: x.append(bytearray(1 << 24))\n", Outcome.MEMORY),
    "huge number": ("x = 1 << 20_000_000_000\n", Outcome.MEMORY),
    "fork bomb": ("import os\nwhile True: os.fork()\n", Outcome.EXCEPTION),
    "thread bomb": (
        "import threading, time\n"
        "while True: threading.Thread(target=time.sleep, args=(3600,)).start()\n",
        Outcome.EXCEPTION,
    ),
    "pipe bomb": ("import os\nx = [os.pipe() for _ in range(10**6)]\n", Outcome.EXCEPTION),
    "file bomb": ("open('x', 'wb').write(bytes(1 << 25))\n", Outcome.EXCEPTION),
    "signal without a name": ("import os\nos.kill(os.getpid(), 40)\n", Outcome.EXCEPTION),
    "crash": ("import ctypes\nctypes.string_at(0)\n", Outcome.EXCEPTION),
    "crash of the parser": ("eval('-' * 200000 + '1')\n", Outcome.MEMORY),
}


@pytest.mark.parametrize(("program", "outcome"), HUNGRY.values(), ids=HUNGRY.keys())
def test_hungry_program(grade, program, outcome):
    started = time.monotonic()
    grade = grade(program + RIGHT, time_limit_s=0.4, memory_limit_mb=256)
    assert grade.outcome is outcome, grade
    assert time.monotonic() - started < 10.0


def test_a_bottomless_stack_is_bounded(grade):
    # It depends on the interpreter which limit ends the program: the stack, the memory or the time.
    grade = grade("import sys\nsys.setrecursionlimit(10**9)\ndef f(): f()\nf()\n", time_limit_s=0.5)
    assert grade.outcome in (Outcome.EXCEPTION, Outcome.MEMORY, Outcome.TIMEOUT)


def test_the_scratch_folder_is_bounded(pool, grade):
    if "quota" not in pool.layers:
        pytest.skip("only root has a scratch folder of bounded size")
    program = "i = 0\nwhile (i := i + 1): open(str(i), 'wb').write(bytes({}))\n"
    for size in (0, 1 << 20):
        verdict = grade(program.format(size) + RIGHT)
        assert verdict.outcome is Outcome.EXCEPTION
        assert "No space left" in verdict.detail


def test_output_is_bounded(grade):
    program = "while True: print('x' * 99999)\n"
    assert grade(program, stdio=(("", "x"),)).outcome is Outcome.WRONG_OUTPUT
    flood = 'int main() { for (;;) puts("12345678901234567890123456789012"); }'
    outcome = grade(f"#include <cstdio>\n{flood}", Language.CPP, stdio=(("", "x"),)).outcome
    assert outcome is Outcome.WRONG_OUTPUT


def test_output_in_tests_goes_nowhere(grade):
    assert grade("print('x' * 10**8)\n" + RIGHT).outcome is Outcome.PASSED


CPP_HUNGRY = (
    ("#include <unistd.h>\nint main() { sleep(3600); }", Outcome.TIMEOUT),
    ("#include <vector>\nint main() { std::vector<char> v(1ul << 40); }", Outcome.MEMORY),
    ("int f(int x) { volatile int y[999]; y[0] = x; return f(y[0]) + 1; }\n", Outcome.EXCEPTION),
)


@pytest.mark.parametrize(("program", "outcome"), CPP_HUNGRY)
def test_hungry_cpp(grade, program, outcome):
    if "main" not in program:
        program += "int main() { return f(1); }"
    assert grade(program, Language.CPP, stdio=(("", "x"),)).outcome is outcome


def test_compiling_is_bounded(grade):
    program = "#include __FILE__\nint add(int a, int b) { return a + b; }"
    assert grade(program, Language.CPP).outcome is Outcome.COMPILE_ERROR
    program = "template <int N> struct A { static const int v = A<N + 1>::v; };\nint x = A<0>::v;"
    assert grade(program, Language.CPP).outcome is Outcome.COMPILE_ERROR


def test_deep_recursion_in_cpp_is_honest(grade):
    # The program needs about 48 MiB of stack.
    program = "int f(int n) { volatile int x = n; return n ? f(n - 1) + x - x + 1 : 0; }\n"
    program += '#include <cstdio>\nint main() { printf("%d", f(1000000)); }'
    assert grade(program, Language.CPP, stdio=(("", "1000000"),)).outcome is Outcome.PASSED


def test_a_time_limit_is_for_each_case(grade):
    program = (
        "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass\n"
    )
    cases = (("", ""),) * 3
    assert grade(program, stdio=cases, time_limit_s=0.5).outcome is Outcome.PASSED
    assert grade(program, stdio=cases, time_limit_s=0.2).outcome is Outcome.TIMEOUT


@pytest.mark.parametrize(
    "pause",
    [
        "time.sleep(0.3)",
        "end = time.process_time() + 0.3\n    while time.process_time() < end: pass",
    ],
)
def test_a_limit_is_for_all_calls_together(grade, pause):
    program = f"import time\ndef add(a, b):\n    {pause}\n    return a + b\n"
    code = "assert add(1, 1) == 2\n"
    assert grade(program, code=code, time_limit_s=0.6).outcome is Outcome.PASSED
    started = time.monotonic()
    assert grade(program, code=code * 60, time_limit_s=0.6).outcome is Outcome.TIMEOUT
    assert time.monotonic() - started < 8.0


@pytest.fixture
def load():
    """Keep ten processes busy."""
    command = [sys.executable, "-S", "-c", "while True: pass"]
    busy = [subprocess.Popen(command) for _ in range(10)]
    yield
    for process in busy:
        process.kill()
        process.wait()


@pytest.mark.usefixtures("load")
def test_load_does_not_change_verdicts(pool, make_problem):
    spin = "import time\nend = time.process_time() + {}\nwhile time.process_time() < end: pass\n"
    thread = (
        "import threading\n"
        "thread = threading.Thread(target=exec, args=({!r},))\nthread.start()\nthread.join()\n"
    )
    below, above = spin.format(0.3), spin.format(9.0)
    problem = make_problem(time_limit_s=0.5)
    programs = [below, thread.format(below), above, "import time\ntime.sleep(9)\n"]
    outcomes = [g.outcome for g in pool.grade([(problem, p + RIGHT) for p in programs])]
    assert outcomes == [Outcome.PASSED, Outcome.PASSED, Outcome.TIMEOUT, Outcome.TIMEOUT]


def test_no_process_is_left(grade, descendants):
    before = descendants()
    grade(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(99,)).start()\n" + RIGHT
    )
    grade("#include <unistd.h>\nint main() { sleep(99); }", Language.CPP, stdio=(("", ""),))
    assert descendants() == before


WAITING_TESTS = {
    "an event": (
        "async def solve(set_it): ...\n",
        "import asyncio\nasync def main():\n    event = asyncio.Event()\n"
        "    await solve(event.set)\n    await event.wait()\nasyncio.run(main())\n",
    ),
    "a queue": (
        "def solve(put): ...\n",
        "import queue\nq = queue.Queue()\nsolve(q.put)\n"
        "try:\n    q.get()\nexcept BaseException:\n    pass\n",
    ),
}


def test_tests_that_wait_for_the_program(pool, make_problem):
    jobs = [
        (make_problem(code=tests, entry_point="solve"), program)
        for program, tests in WAITING_TESTS.values()
    ]
    retries = pool.counts["retries"]
    grades = pool.grade(jobs)
    assert [grade.outcome for grade in grades] == [Outcome.TIMEOUT] * len(jobs), grades
    assert pool.counts["retries"] == retries  # no worker was taken for hung


def test_tests_may_wait_a_little(grade):
    tests = "import time\ntime.sleep(1.2)\nassert add(2, 3) == 5\n"
    assert grade(RIGHT, code=tests).outcome is Outcome.PASSED
