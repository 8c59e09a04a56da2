"""pass@k by hand, by enumeration and at its limits; panels and their standard errors."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfreg.loop.panel import Panel, score
from selfreg.loop.pass_at_k import pass_at_k
from selfreg.run import records, seeds
from selfreg.run.records import Grade, Group, Outcome, Problem


def by_enumeration(n, c, k):
    """Return the share of all choices of k completions that contain one of the c that pass."""
    choices = list(combinations(range(n), k))
    return np.mean([min(choice) < c for choice in choices])


@given(st.integers(1, 9), st.data())
def test_equals_enumeration(n, data):
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    got = pass_at_k(np.array([n]), np.array([c]), k)[0]
    np.testing.assert_allclose(got, by_enumeration(n, c, k), atol=1e-12)


def test_by_hand():
    # n 4, c 1, k 2: 1 - C(3,2)/C(4,2) = 1 - 3/6.
    got = pass_at_k(np.array([4, 4, 4]), np.array([1, 0, 4]), 2)
    np.testing.assert_allclose(got, [0.5, 0, 1])


def test_too_few_completions_are_refused():
    with pytest.raises(ValueError, match="pass@5 needs at least 5"):
        pass_at_k(np.array([4]), np.array([2]), 5)


def group(name, passed, count):
    problem = Problem(name, "", records.Tests(code="pass"))
    grades = [Grade(Outcome.PASSED)] * passed + [Grade(Outcome.TIMEOUT)] * (count - passed)
    return Group(problem, (None,) * count, ("",) * count, tuple(grades))


def test_a_panels_error_is_clustered_by_problem():
    panel = score([group("a", 4, 4), group("b", 0, 4), group("c", 2, 4)])
    assert panel.problem_ids == ("a", "b", "c")
    assert panel.pass_at_1 == 0.5
    # The sd of (1, 0, .5) is .5, divided by sqrt(3). Twelve independent draws would give .144.
    np.testing.assert_allclose(panel.standard_error, 0.5 / np.sqrt(3))


def test_panel_seeds_do_not_depend_on_the_step_and_differ_by_everything_else():
    problems = tuple(Problem(name, "", records.Tests(code="pass")) for name in "ab")
    one, other = (Panel(problems, 4, seed, seeds.PANEL).seeds() for seed in (1, 2))
    again = Panel(problems, 4, 1, seeds.PANEL).seeds()
    np.testing.assert_array_equal(one, again)
    report = Panel(problems, 4, 1, seeds.REPORT).seeds()
    drawn = np.concatenate([np.ravel(one), np.ravel(other), np.ravel(report)])
    assert len(set(drawn.tolist())) == 24


def test_training_seeds_differ_by_campaign_step_and_problem():
    places = [(c, s, p) for c in range(3) for s in range(3) for p in "ab"]
    drawn = [seeds.completion_seeds(1, seeds.TRAIN, p, 4, c, s) for c, s, p in places]
    assert len(set(np.ravel(drawn).tolist())) == 4 * len(places)
    choices = [seeds.generator(1, seeds.CHOICE, *place[:2]).integers(1 << 40) for place in places]
    assert len(set(choices)) == 9
