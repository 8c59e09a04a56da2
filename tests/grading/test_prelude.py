"""Test what competition programs rely on: the names, the streams and the stack of a judge."""

import pytest

from selfreg.data.harness import APPS_SETUP, LCB_SETUP
from selfreg.grading import GraderPool
from selfreg.run.records import Language, Outcome, Problem, StdioCase
from selfreg.run.records import Tests as ProblemTests

ECHO = (("5\n", "5\n"),)


@pytest.mark.parametrize(
    "program",
    [
        "import os, sys\nif not os.environ.get('ONLINE_JUDGE'): sys.stdin = open('in.txt')\n"
        "print(input())\n",
        "print(open('/dev/stdin').read())\n",
        "print(open(0).read())\n",
        "import threading\nthreading.stack_size(2**30)\n"
        "t = threading.Thread(target=lambda: print(input()))\nt.start()\nt.join()\n",
        "import resource as r\nr.setrlimit(r.RLIMIT_STACK, (2**28, 2**28))\nprint(input())\n",
        "\ufeffprint(input())\n",
    ],
)
def test_python_programs(grade, program):
    verdict = grade(program, stdio=ECHO)
    assert verdict.outcome is Outcome.PASSED, verdict


def test_cpp_programs(grade):
    program = (
        "#include <cstdio>\n#include <cstdlib>\nint main() {\n#ifndef ONLINE_JUDGE\n"
        '    freopen("in.txt", "r", stdin);\n#endif\n    int n;\n    scanf("%d", &n);\n'
        '    printf("%d\\n", n);\n}\n'
    )
    verdict = grade(program, Language.CPP, stdio=ECHO)
    assert verdict.outcome is Outcome.PASSED, verdict


def test_a_row_chooses_its_standard_of_cpp(pool):
    program = (
        "#include <iostream>\n#include <ranges>\n#include <span>\nint main() {\n"
        "    int n; std::cin >> n;\n"
        "    for (int i : std::views::iota(n) | std::views::take(1)) std::cout << i;\n}\n"
    )
    cases = (StdioCase("5", "5"),)
    for standard, outcome in (("c++20", Outcome.PASSED), ("", Outcome.COMPILE_ERROR)):
        problem = Problem("p", "", ProblemTests(stdio=cases), Language.CPP, cpp_standard=standard)
        verdict = pool.grade([(problem, program)])[0]
        assert verdict.outcome is outcome, (standard, verdict)
    function = Problem(
        "f",
        "",
        ProblemTests(setup="#include <cassert>\n", code="int main() { assert(add(2, 3) == 5); }\n"),
        Language.CPP,
        entry_point="add",
        starter="int add(int a, int b) {\n",
        cpp_standard="c++20",
    )
    generic = "#include <concepts>\nint add(std::integral auto a, int b) { return a + b; }\n"
    plain = generic + "int add(int a, int b) { return add<int>(a, b); }\n"
    assert pool.grade([(function, plain)])[0].outcome is Outcome.PASSED


@pytest.mark.parametrize(
    ("setup", "program"),
    [
        (
            APPS_SETUP,
            "print(sqrt(int(input())**2) and deque([5])[0] and bisect.bisect([1], 2) * 5)\n",
        ),
        (LCB_SETUP, "print(gcd(int(stdin.read()), 0)) or open\n"),
        (LCB_SETUP, "def f(x: List[int]) -> Optional[int]: return pow(x[0], 1)\nprint(f([5]))\n"),
    ],
)
def test_scripts_have_the_imports_of_their_data_set(grade, setup, program):
    verdict = grade(program, stdio=ECHO, setup=setup)
    assert verdict.outcome is Outcome.PASSED, verdict
    assert grade(program, stdio=ECHO).outcome is Outcome.EXCEPTION


def test_cases_are_told_to_a_worker_once_and_never_mixed_up():
    def echo(*texts):
        return Problem("p", "", ProblemTests(stdio=tuple(StdioCase(t, t) for t in texts)))

    function = Problem("f", "", ProblemTests(code="assert f() == 1"), entry_point="f")
    one, two = echo("1", "2"), echo("3")
    reads, says = "print(input())", "print({})"
    jobs = [
        (one, reads),
        (one, f"{reads} # again"),
        (one, says.format(1)),
        (two, says.format(3)),
        (two, says.format(1)),
        (function, "def f(): return 1"),
        (two, reads),
        (one, f"{reads} # once more"),
        (function, "def f(): return 2"),
        (one, says.format(3)),
    ]
    with GraderPool(1) as pool:
        rewards = [grade.reward for grade in pool.grade(jobs)]
        assert rewards == [1, 1, 0, 1, 0, 1, 1, 1, 0, 0]
        assert [grade.reward for grade in pool.grade(jobs)] == rewards
