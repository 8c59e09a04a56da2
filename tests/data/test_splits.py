import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfreg.data.splits import split_panels
from selfreg.run.records import Problem
from selfreg.run.records import Tests as ProblemTests

PROBLEMS = [Problem(str(i), "", ProblemTests(code="pass")) for i in range(40)]
SIZES = {"train": 20, "panel": 12, "report": 8}


@given(st.integers(0, 2**32), st.lists(st.integers(0, 13), max_size=3))
def test_panels_are_disjoint_and_in_order(seed, sizes):
    panels = split_panels(PROBLEMS, {str(i): size for i, size in enumerate(sizes)}, seed)
    assert [len(panel) for panel in panels.values()] == sizes
    ids = [int(problem.id) for panel in panels.values() for problem in panel]
    assert len(set(ids)) == len(ids)
    for panel in panels.values():
        assert list(panel) == sorted(panel, key=lambda problem: int(problem.id))


def test_panels_depend_on_the_seed_alone():
    assert split_panels(PROBLEMS, SIZES, 1) == split_panels(PROBLEMS, SIZES, 1)
    assert split_panels(PROBLEMS, SIZES, 1) != split_panels(PROBLEMS, SIZES, 2)


def test_a_larger_last_panel_leaves_the_others():
    small, large = (split_panels(PROBLEMS, SIZES | {"report": n}, 0) for n in (1, 8))
    assert (small["train"], small["panel"]) == (large["train"], large["panel"])


def test_too_few_problems_are_refused_with_the_numbers():
    with pytest.raises(ValueError, match=r"train 20 \+ panel 21 = 41 problems, .* there are 40"):
        split_panels(PROBLEMS, {"train": 20, "panel": 21}, 0)


def test_a_negative_size_is_refused():
    with pytest.raises(ValueError, match=r"negative size: train 5 \+ panel -1"):
        split_panels(PROBLEMS, {"train": 5, "panel": -1}, 0)
