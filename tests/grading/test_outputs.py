"""Comparing what a program wrote with what it should have written."""

import pytest

from selfreg.grading.outputs import difference
from selfreg.run.records import Outcome


@pytest.mark.parametrize(
    ("output", "wanted", "tolerance", "same"),
    [
        (b"0.333333", b"0.33333333", 0.0, False),
        (b"0.333333", b"0.33333333", 1e-5, True),
        (b"0.3334", b"0.33333333", 1e-5, False),
        (b"1000000.5", b"1000001.0", 1e-5, True),  # in proportion
        (b"100000", b"100001", 1e-5, False),  # whole numbers are exact
        (b"1e-7", b"0.0", 1e-5, True),
        (b"2", b"2.0", 1e-5, True),
        (b"nan", b"2.0", 1e-5, False),
        (b"inf", b"1e999", 1e-5, False),
        (b"x 0.5", b"y 0.5", 1e-5, False),
        (b"0.5 0.5", b"0.5", 1e-5, False),
        (b"0.5\n\n0.25 ", b"0.50000001\n0.25", 1e-5, True),
        (b"0.5", b"0.5\n0.25", 1e-5, False),
    ],
)
def test_tolerance(output, wanted, tolerance, same):
    assert (difference(output, wanted, tolerance) is None) is same


def test_the_pool_takes_the_tolerance_of_the_tests(grade):
    cases = (("", "0.33333\n"),)
    assert grade("print(1 / 3)", stdio=cases, tolerance=1e-4).outcome == "passed"
    assert grade("print(1 / 3)", stdio=cases).outcome == "wrong_output"


def test_long_outputs_are_right(grade):
    """A million lines, and more than the 16 MiB that a script may write beyond what is wanted."""
    program = "print('\\n'.join(map(str, range(1000000))))\nprint('x' * (12 << 20))\n"
    lines = "\n".join(map(str, range(1000000)))
    wanted = f"{lines}\n{'x' * (12 << 20)}\n"
    assert grade(program, stdio=(("", wanted),), time_limit_s=5.0).outcome is Outcome.PASSED
    short = program.replace("12 <<", "11 <<")
    assert grade(short, stdio=(("", wanted),), time_limit_s=5.0).outcome is Outcome.WRONG_OUTPUT
    flood = "print('x' * (40 << 20))\n"
    verdict = grade(flood, stdio=(("", wanted),), time_limit_s=5.0)
    assert verdict.outcome is Outcome.WRONG_OUTPUT, verdict
