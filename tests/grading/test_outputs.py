"""Test each checker's comparison of a program's output with the expected one."""

import pytest

from selfreg.data.checker_json import read_checker
from selfreg.grading.outputs import difference
from selfreg.run.records import Checker, Language, Outcome

NEAR = Checker("lines", absolute=1e-5, relative=1e-5)
# The checker of code_contests: split into words, lower case, absolute tolerance 1e-5.
CONTESTS = Checker("floats", absolute=1e-5, relative=0.0, caseless=True)


@pytest.mark.parametrize(
    ("output", "wanted", "checker", "same"),
    [
        (b"0.333333", b"0.33333333", "lines", False),
        (b"0.333333", b"0.33333333", NEAR, True),
        (b"0.3334", b"0.33333333", NEAR, False),
        (b"1000000.5", b"1000001.0", NEAR, True),  # within the relative tolerance
        (b"100000", b"100001", NEAR, False),  # whole numbers are exact
        (b"1e-7", b"0.0", NEAR, True),
        (b"2", b"2.0", NEAR, True),
        (b"nan", b"2.0", NEAR, False),
        (b"inf", b"1e999", NEAR, False),
        (b"x 0.5", b"y 0.5", NEAR, False),
        (b"0.5 0.5", b"0.5", NEAR, False),
        (b"0.5\n\n0.25 ", b"0.50000001\n0.25", NEAR, True),
        (b"0.5", b"0.5\n0.25", NEAR, False),
        # float() reads these, but no checker should.
        (b"1_0.0", b"10.0", NEAR, False),
        (b"1_0", b"10", "floats", False),
        (b"infinity", b"inf", "floats", False),
        (b"0x10", b"16.0", "floats", False),
        # These test the absolute and the relative tolerance.
        (b"1000001.5", b"1000000.5", CONTESTS, False),
        (b"1000000.500001", b"1000000.5", CONTESTS, True),
        (b"1000000.1", b"1000000.0", "floats", True),
        (b"2.0", b"2", CONTESTS, True),
        (b"007", b"7", CONTESTS, True),
        (b"-0", b"0", CONTESTS, True),
        (b"-7", b"7", CONTESTS, False),
        (b"1000000000000000001", b"1000000000000000000", "floats", False),
        (b"1000000000000000001.0", b"1000000000000000000", CONTESTS, False),
        (b"1e9999", b"1e9998", CONTESTS, False),
        (b"YES 2.0", b"yes\n2", CONTESTS, True),
        (b"3.0", b"3", {"name": "floats", "absolute": 0, "relative": 0}, True),
        (b"3.1", b"3", {"name": "floats", "absolute": 0, "relative": 0}, False),
        # These test the layout.
        (b"1 2\n3", b"1\n2 3", "tokens", True),
        (b"1 2\n3", b"1\n2 3", "lines", False),
        (b"1  2 \n\n", b"1 2", "lines", True),
        (b"1  2", b"1 2", "exact", False),
        (b"1 2\r\n", b"1 2", "exact", True),
        (b"1 2\n\n", b"1 2", "exact", False),
        (b"Yes", b"YES", "caseless", True),
        (b"Yes", b"YES", "tokens", False),
        (b"Yes", b"No", "caseless", False),
        (b"b\na", b"a\nb\n", "unordered", True),
        (b"b\na\na", b"a\nb\n", "unordered", False),
        (b"b", b"a\nb\n", "unordered", False),
    ],
)
def test_checkers(output, wanted, checker, same):
    checker = checker if isinstance(checker, Checker) else read_checker(checker)
    assert (difference(output, wanted, checker) is None) is same


def test_any_of_takes_each_alternative():
    checker = read_checker("any_of")
    assert difference(b"3 1\n", b"1 3", checker, [b"2 2", b"3  1"]) is None
    assert difference(b"4 0", b"1 3", checker, [b"2 2"]) == (
        "wrong_output",
        "line 1 is 4 0, not 1 3",
    )


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("near", "unknown checker 'near'; allowed: exact, lines, tokens"),
        ("program", "'program' needs its source"),
        ({"name": "floats", "abs": 1}, "unknown key 'abs'"),
        ({"name": "floats", "absolute": -1}, "'absolute' of a checker must be at least 0, not -1"),
        ({"name": "floats", "absolute": "x"}, "'absolute' must be an integer or a number"),
        ({"name": "exact", "absolute": 1}, "the checker 'exact' takes no 'absolute'"),
        ({"name": "tokens", "program": "x"}, "'tokens' takes no 'program'"),
        ({"name": "program", "program": "x", "protocol": "z"}, "must be testlib or printed"),
        ({"name": "program", "program": "x", "absolute": 1}, "'program' takes no 'absolute'"),
        (3, "expected an object"),
    ],
)
def test_a_bad_checker_is_refused(value, message):
    with pytest.raises(ValueError, match=message):
        read_checker(value)


def test_the_pool_takes_the_checker_of_the_tests(grade):
    cases = (("", "0.33333\n"),)
    near = Checker("lines", absolute=1e-4)
    assert grade("print(1 / 3)", stdio=cases, checker=near).outcome == "passed"
    assert grade("print(1 / 3)", stdio=cases).outcome == "wrong_output"
    others = (("", "1", ("2", "3")),)
    assert grade("print(3)", stdio=others, checker=Checker("any_of")).outcome == "passed"
    assert grade("print(4)", stdio=others, checker=Checker("any_of")).outcome == "wrong_output"


# Both accept two positive numbers, in any order, that have the sum in the input.
PRINTED = """\
import sys
total = int(open(sys.argv[1]).read())
assert open(sys.argv[2]).read().strip() == "answer"
numbers = open(sys.argv[3]).read().split()
right = len(numbers) == 2 and all(map(str.isdigit, numbers)) and sum(map(int, numbers)) == total
print(int(right))
"""
TESTLIB = """\
#include "testlib.h"
using namespace std;
int main(int argc, char* argv[]) {
    setName("two numbers with a sum");
    registerTestlibCmd(argc, argv);
    int total = inf.readInt();
    if (ans.readToken() != "answer") quitf(_fail, "no answer");
    int a = ouf.readInt(1, 1000000, "a"), b = ouf.readInt(1, 1000000, "b");
    if (a + b != total) quitf(_wa, "%d + %d is not %d", a, b, total);
    quitf(_ok, "right");
}
"""
PLAIN_CPP = """\
#include <fstream>
#include <iostream>
int main(int argc, char** argv) {
    if (argc != 4) return 3;
    std::ifstream input(argv[1]), output(argv[2]), answer(argv[3]);
    long long total, a, b;
    std::string word;
    input >> total;
    answer >> word;
    if (word != "answer") return 3;
    if (!(output >> a >> b) || output >> word) { std::cerr << "two numbers are wanted"; return 2; }
    return a > 0 && b > 0 && a + b == total ? 0 : 1;
}
"""
STATUS = (
    PRINTED.replace("print(int(right))", "sys.exit(0 if right else 1)")
    .replace("sys.argv[2]", "sys.argv[9]")
    .replace("sys.argv[3]", "sys.argv[2]")
    .replace("sys.argv[9]", "sys.argv[3]")
)


@pytest.mark.parametrize(
    "checker",
    [
        Checker("program", program=PRINTED, protocol="printed"),
        Checker("program", program=STATUS),
        Checker("program", program=PLAIN_CPP, language=Language.CPP),
        Checker("program", program=TESTLIB, language=Language.CPP),
    ],
)
def test_a_program_checks(grade, checker):
    cases = (("10\n", "answer\n"), ("4", "answer"))
    right = "n = int(input())\nprint(1, n - 1)\n"
    for program, outcome in (
        (right, Outcome.PASSED),
        (right.replace("1, n - 1", "n - 1, 1"), Outcome.PASSED),
        (right.replace("- 1", "- 2"), Outcome.WRONG_OUTPUT),
        ("print('x' * 100000)", Outcome.WRONG_OUTPUT),
        ("", Outcome.WRONG_OUTPUT),
        ("1 / 0", Outcome.EXCEPTION),
    ):
        verdict = grade(program, stdio=cases, checker=checker)
        assert verdict.outcome is outcome, (program, verdict)


@pytest.mark.parametrize(
    "checker",
    [
        Checker("program", program="1 / 0", protocol="printed"),
        Checker("program", program="1 / 0"),
        Checker("program", program="print('maybe')", protocol="printed"),
        Checker("program", program="raise SystemExit(3)"),
        Checker("program", program="int main() {", language=Language.CPP),
        Checker("program", program="int main() { return 3; }", language=Language.CPP),
    ],
)
def test_a_broken_checker_is_no_verdict(grade, checker):
    assert grade("print(1)", stdio=(("", "1"),), checker=checker).outcome is Outcome.TEST_ERROR


def test_long_outputs_are_right(grade):
    """Write a million lines, and more than the 16 MiB allowed beyond the expected output."""
    program = "print('\\n'.join(map(str, range(1000000))))\nprint('x' * (12 << 20))\n"
    lines = "\n".join(map(str, range(1000000)))
    wanted = f"{lines}\n{'x' * (12 << 20)}\n"
    assert grade(program, stdio=(("", wanted),), time_limit_s=5.0).outcome is Outcome.PASSED
    short = program.replace("12 <<", "11 <<")
    assert grade(short, stdio=(("", wanted),), time_limit_s=5.0).outcome is Outcome.WRONG_OUTPUT
    flood = "print('x' * (40 << 20))\n"
    verdict = grade(flood, stdio=(("", wanted),), time_limit_s=5.0)
    assert verdict.outcome is Outcome.WRONG_OUTPUT, verdict
