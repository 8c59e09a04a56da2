"""A single comparison of two policies."""

import math

import numpy as np
import pytest

from selfreg.guard.compare import lowest, p_above


def test_p_by_hand():
    """Of 3, 1, -1 the subsets with a sum of at most 0 are {}, {-1} and {1, -1}."""
    assert p_above(np.array([3.0, 1.0, -1.0])) == pytest.approx(3 / 8)
    assert p_above(np.array([3.0, 1.0, -1.0]), 5.0) == 1.0


def test_the_lower_bound_inverts_the_test():
    differences = np.random.default_rng(0).normal(0.1, 0.3, 60)
    low = lowest(differences, 0.05)
    assert p_above(differences, low) <= 0.05 < p_above(differences, low + 1e-3)
    assert lowest(differences, 0.01) < low < differences.mean()
    assert lowest(differences[:4], 0.05) == -math.inf  # 1 / 16 at best


def test_a_candidate_at_the_bound_passes_at_most_at_the_rate_of_the_level():
    rng = np.random.default_rng(1)
    rates = rng.beta(3, 2, (2000, 1, 40)) * np.ones((1, 2, 1))
    new, old = np.moveaxis(rng.binomial(8, rates) / 8, 1, 0)
    passed = np.mean([p_above(row) <= 0.05 for row in new - old])
    assert 0.02 < passed <= 0.05 + 0.01  # sums of eighths often tie, and ties count in full
