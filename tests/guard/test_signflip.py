"""p-values by hand, by brute force, and their properties for arbitrary falls."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfreg.guard.signflip import log_bound, log_p

FALLS = st.lists(st.integers(-40, 40), min_size=1, max_size=9).map(lambda v: np.array(v) / 8)


def brute_force(falls):
    """Return the share of all choices of signs whose sum is at least the observed one."""
    observed = falls.sum()
    sums = [
        sum(s * abs(f) for s, f in zip(signs, falls, strict=True))
        for signs in itertools.product((-1, 1), repeat=len(falls))
    ]
    return np.mean([total >= observed - 1e-12 for total in sums])


@pytest.mark.parametrize(
    ("falls", "p"),
    [
        ([1.0, 1.0, 1.0, 1.0], 1 / 16),  # every other choice has a smaller sum
        ([1.0, 2.0, 4.0, -3.0], 5 / 16),  # none flips, 1, 2, 3, or 1 and 2: at most 3 in all
        ([3.0, -1.0], 2 / 4),  # 2, and 4
        ([1.0, 1.0, 1.0, -1.0], 5 / 16),  # one of the four flips, or none
        ([0.0, 0.0], 1.0),
        ([-1.0, -1.0], 1.0),
    ],
)
def test_p_by_hand(falls, p):
    assert math.exp(log_p(np.array(falls))) == pytest.approx(max(p, 0.0), abs=1e-12)


@given(FALLS)
def test_p_is_never_below_the_brute_force_one_nor_far_above(falls):
    counted, exact = math.exp(log_p(falls)), brute_force(falls)
    assert counted >= exact - 1e-12
    if falls.sum() > 0:  # otherwise p is 1 without counting
        # The grid is at least as exact as counting slightly smaller falls.
        assert counted <= brute_force(falls - 2 * np.abs(falls).sum() / (1 << 14)) + 1e-12


@given(FALLS)
def test_the_bound_is_above_the_exact_p(falls):
    assert log_bound(falls) >= math.log(brute_force(falls)) - 1e-9


@given(FALLS, st.integers(0, 8), st.integers(0, 20))
def test_a_larger_fall_never_raises_p(falls, at, more):
    larger = falls.copy()
    larger[at % len(falls)] += more / 8
    assert brute_force(larger) <= brute_force(falls) + 1e-12
    step = 2 * max(np.abs(falls).sum(), np.abs(larger).sum()) / (1 << 14)
    assert log_p(larger - step) <= log_p(falls - 2 * step) + 1e-9 or larger.sum() <= 0.1


@given(FALLS, st.sampled_from([0.25, 2.0, 1024.0]))
def test_the_unit_of_rewards_does_not_matter(falls, unit):
    assert log_p(falls * unit) == pytest.approx(log_p(falls), abs=1e-12)
    assert log_bound(falls * unit) == pytest.approx(log_bound(falls), abs=1e-9)


def test_p_of_many_problems_stays_within_the_range_of_floats():
    assert log_p(np.ones(600)) == pytest.approx(-600 * math.log(2))
    assert log_p(np.ones(5000)) >= math.log(1e-300) - 1e-9
    few_gains = np.r_[np.ones(2000), -np.ones(100)]
    assert math.log(1e-300) - 1e-9 <= log_p(few_gains) < -300


def test_p_is_uniform_for_symmetric_falls():
    rng = np.random.default_rng(0)
    sizes, signs = rng.random((2000, 40)), rng.choice([-1, 1], (2000, 40))
    p = np.exp([log_p(row) for row in sizes * signs])
    for level in (0.01, 0.05, 0.2):
        assert abs(np.mean(p <= level) - level) < 4 * math.sqrt(level / 2000)
