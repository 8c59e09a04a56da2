"""Test features that the tests of honest programs use: right programs pass, and wrong ones fail.

features.txt has one row per feature, after each ===: the tests, the right program, a piece of that
program, and a replacement of the piece that makes the program wrong.
"""

from pathlib import Path

import pytest

from selfreg.run.records import Outcome


def read_features():
    """Read the name, the tests, the right program and the wrong program of each row."""
    text = (Path(__file__).parent / "features.txt").read_text()
    for row in text.split("=== ")[1:]:
        name, _, rest = row.partition("\n")
        code, _, rest = rest.partition("--- right\n")
        right, _, rest = rest.partition("--- wrong\n")
        old, _, new = rest.partition("\n--- instead\n")
        assert old in right, name
        yield pytest.param(code, right, right.replace(old, new.removesuffix("\n")), id=name)


@pytest.mark.parametrize(("code", "right", "wrong"), list(read_features()))
def test_feature(pool, make_problem, code, right, wrong):
    problem = make_problem(code=code, entry_point="f", time_limit_s=5.0)
    good, bad = pool.grade([(problem, right), (problem, wrong)])
    assert good.outcome is Outcome.PASSED, good
    assert bad.outcome in (Outcome.FAILED, Outcome.EXCEPTION), bad
