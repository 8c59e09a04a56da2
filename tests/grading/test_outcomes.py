"""Test every outcome in Python, in C++, and over standard input and output."""

import pytest

from selfreg.grading import GraderPool
from selfreg.run.records import Language, Outcome

PYTHON_CASES = [
    ("def add(a, b):\n    return a + b\n", Outcome.PASSED),
    ("def add(a, b):\n    return a - b\n", Outcome.FAILED),
    ("def add(a, b):\n    return a + c\n", Outcome.EXCEPTION),
    ("def add(a, b):\n    return add(a, b)\n", Outcome.EXCEPTION),
    ("def sub(a, b):\n    return a + b\n", Outcome.EXCEPTION),
    ("", Outcome.EXCEPTION),
    ("import numpy\n", Outcome.EXCEPTION),
    ("def add(a, b):\n    return input()\n", Outcome.EXCEPTION),
    ("def add(a, b):\n    while True: pass\n", Outcome.TIMEOUT),
    ("def add(a, b):\n    x = [0] * 10**10\n", Outcome.MEMORY),
    ("def add(a, b)\n    return a + b\n", Outcome.COMPILE_ERROR),
    ("Here is the function that you asked for.", Outcome.COMPILE_ERROR),
    ("def add(a, b):\n    return a + b\0\n", Outcome.COMPILE_ERROR),
    ("x = '\udcff'\n", Outcome.COMPILE_ERROR),
]


@pytest.mark.parametrize(("program", "outcome"), PYTHON_CASES)
def test_python(grade, program, outcome):
    assert grade(program, time_limit_s=0.3).outcome is outcome


CPP_CASES = [
    ("int add(int a, int b) { return a + b; }", Outcome.PASSED),
    ("int add(int a, int b) { return a - b; }", Outcome.FAILED),
    ("int add(int a, int b) { return *(int*)0; }", Outcome.EXCEPTION),
    ("int add(int a, int b) { throw 1; }", Outcome.EXCEPTION),
    ("int add(int a, int b) { for (volatile int i = 0;; i = 0); }", Outcome.TIMEOUT),
    ("int add(int a, int b) { return *new int[1ul << 40]; }", Outcome.MEMORY),
    ("int add(int a, int b) { return a + b }", Outcome.COMPILE_ERROR),
    ("int sub(int a, int b) { return a + b; }", Outcome.COMPILE_ERROR),
    ("int add(int a, int b); ", Outcome.COMPILE_ERROR),
    ("int add(int a, int b) { return a + b; }\nint main() { return 1; }", Outcome.PASSED),
]


@pytest.mark.parametrize(("program", "outcome"), CPP_CASES)
def test_cpp(grade, program, outcome):
    assert grade(program, Language.CPP, time_limit_s=0.3).outcome is outcome


def test_cpp_tests_that_return_an_error_fail(grade):
    tests = "int main(int count, char** values) { return add(2, 3) == 5 ? 0 : 1; }"
    right, wrong = (f"int add(int a, int b) {{ return a {sign} b; }}" for sign in "+-")
    assert grade(right, Language.CPP, code=tests).outcome is Outcome.PASSED
    assert grade(wrong, Language.CPP, code=tests).outcome is Outcome.FAILED


def test_a_source_that_speaks_of_killing_compiles_once(grade):
    program = (
        '#pragma message "Killed signal terminated program cc1plus"\n'
        "int add(int a, int b) { return a + b; }"
    )
    assert grade(program, Language.CPP).outcome is Outcome.PASSED


def test_cpp_options_are_the_callers(make_problem):
    problem = make_problem(Language.CPP)
    program = "int add(int a, int b) { return a + b + EXTRA; }"
    with GraderPool(1, cpp_options=["-DEXTRA=0"]) as pool:
        assert pool.grade([(problem, program)])[0].outcome is Outcome.PASSED


SUMS = (("2 3\n", "5\n"), ("10 -4\n", "6\n"))
STDIO_CASES = [
    ("a, b = map(int, input().split())\nprint(a + b)", Outcome.PASSED),
    ("print(sum(map(int, open(0).read().split())))\nexit()", Outcome.PASSED),
    ("if __name__ == '__main__':\n    print(sum(map(int, input().split())))", Outcome.PASSED),
    ("a, b = map(int, input().split())\nprint(abs(a) + abs(b))", Outcome.WRONG_OUTPUT),
    ("", Outcome.WRONG_OUTPUT),
    ("print(5)\nprint(6)", Outcome.WRONG_OUTPUT),
    ("print(sum(map(int, input().split())))\nexit(1)", Outcome.EXCEPTION),
    ("print(sum(map(int, input().split())))\n1 / 0", Outcome.EXCEPTION),
    ("while True: pass", Outcome.TIMEOUT),
    ("x = bytearray(1 << 40)", Outcome.MEMORY),
    ("print(sum(map(int, input().split()))", Outcome.COMPILE_ERROR),
]


@pytest.mark.parametrize(("program", "outcome"), STDIO_CASES)
def test_python_stdio(grade, program, outcome):
    assert grade(program, stdio=SUMS, time_limit_s=0.3).outcome is outcome


CPP_SUM = '#include <cstdio>\nint main() {{ int a, b; scanf("%d %d", &a, &b); {} }}'
CPP_STDIO_CASES = [
    (CPP_SUM.format('printf("%d", a + b);'), Outcome.PASSED),
    (CPP_SUM.format('printf("%d", a > b ? a : a + b);'), Outcome.WRONG_OUTPUT),
    (CPP_SUM.format('printf("%d", a + b); return 1;'), Outcome.EXCEPTION),
    (CPP_SUM.format('printf("%d", a + b); fflush(stdout); __builtin_abort();'), Outcome.EXCEPTION),
    (CPP_SUM.format("for (volatile int i = 0;; i = 0);"), Outcome.TIMEOUT),
    (CPP_SUM.format("print(a + b);"), Outcome.COMPILE_ERROR),
]


@pytest.mark.parametrize(("program", "outcome"), CPP_STDIO_CASES)
def test_cpp_stdio(grade, program, outcome):
    assert grade(program, Language.CPP, stdio=SUMS, time_limit_s=0.3).outcome is outcome


@pytest.mark.parametrize(
    ("output", "same"),
    [
        ("1 2\n3\n", True),
        ("  1   2 \n\n3", True),
        ("1\t2\r\n3\r\n", True),
        ("1 2 3\n", False),
        ("1 2\n3.0\n", False),
        ("1 2\n", False),
        ("1 2\n3\n4\n", False),
        ("", False),
    ],
)
def test_outputs_are_compared_by_line(grade, output, same):
    outcome = grade(f"print({output!r}, end='')", stdio=(("", "1 2\n3\n"),)).outcome
    assert outcome is (Outcome.PASSED if same else Outcome.WRONG_OUTPUT)


def test_the_detail_tells_where_outputs_differ(grade):
    detail = grade("print(5)", stdio=SUMS).detail
    assert detail == "case 2: line 1 is 5, not 6"


def test_scripts_end_as_in_an_interpreter(grade):
    # Competition programs run their main in a thread with a large stack, and flush at exit.
    program = (
        "import atexit, sys, threading\n"
        "threading.stack_size(1 << 26)\n"
        "def main():\n"
        "    atexit.register(sys.stdout.write, 'after')\n"
        "    print('before')\n"
        "threading.Thread(target=main).start()\n"
    )
    assert grade(program, stdio=(("", "before\nafter\n"),)).outcome is Outcome.PASSED


def test_setup_runs_before_the_program(grade):
    program = "def add(a: List, b: List) -> List:\n    return a + b\n"
    tests = {"setup": "from typing import List\n", "code": "assert add([1], [2]) == [1, 2]\n"}
    assert grade(program, **tests).outcome is Outcome.PASSED


def test_what_a_program_guards_for_main_does_not_run_in_tests(grade):
    program = "def add(a, b):\n    return a + b\nif __name__ == '__main__':\n    raise SystemExit\n"
    assert grade(program).outcome is Outcome.PASSED


def test_dataclasses_find_their_module(grade):
    program = (
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "@dataclass\n"
        "class Pair:\n"
        "    a: int\n"
        "    b: int\n"
        "def add(a, b):\n"
        "    return Pair(a, b).a + b\n"
    )
    assert grade(program).outcome is Outcome.PASSED


def test_asyncio_threads_and_scratch_files_work(grade):
    program = (
        "import asyncio, tempfile\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "async def late(x):\n"
        "    return x\n"
        "def add(a, b):\n"
        "    with tempfile.TemporaryFile() as file, ThreadPoolExecutor(4) as executor:\n"
        "        file.write(b'x')\n"
        "        return sum(executor.map(int, [asyncio.run(late(a)), b]))\n"
    )
    assert grade(program).outcome is Outcome.PASSED


def test_one_program_one_verdict(pool, make_problem):
    # The order of a set and an unseeded random number must not differ from worker to worker.
    program = "import random\nprint(list({str(x) for x in range(99)}), random.random())\n"
    guess = make_problem(stdio=(("", "?\n"),))
    jobs = [(guess, f"{program}# {i}\n") for i in range(20)]
    assert len({grade.detail for grade in pool.grade(jobs)}) == 1


def test_no_code(pool, make_problem):
    assert pool.grade([(make_problem(), None)])[0].outcome is Outcome.NO_CODE


def test_time_is_cpu_time(grade):
    busy = "import time\nend = time.process_time() + 0.2\nwhile time.process_time() < end: pass\n"
    sleepy = "import time\ntime.sleep(0.2)\n"
    add = "def add(a, b):\n    return a + b\n"
    assert 0.2 <= grade(busy + add).time_s < 0.4
    assert 0.0 < grade(sleepy + add).time_s < 0.1


def test_details_can_be_written_to_a_file(grade):
    # A run stores these messages, so a program must not be able to end the run with one.
    words = "\\ud800\\0\\udfff"
    for program, tests in (
        (f"def add(a, b):\n    raise ValueError('{words}')\n", {}),
        (f"raise ValueError('{words}')\n", {}),
        (f"raise ValueError('{words}')\n", {"stdio": (("", ""),)}),
        (f"add = type('C', (), {{'__call__': lambda s, a, b: '{words}'}})()\n", {}),
        ("def add(a, b):\n    raise type('\\ud800', (Exception,), {})\n", {}),
    ):
        grade(program, **tests).detail.encode()
