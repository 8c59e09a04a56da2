"""Test whether one policy beats another by more than a bound, on a panel that selected neither.

This is a single sign-flip test (selfreg.guard.signflip). It assumes that the problems are a random
sample, and that at the edge of the null each difference is symmetric about the bound.
"""

import math

import numpy as np

from selfreg.guard.signflip import log_p

_HALVINGS = 50


def p_above(differences: np.ndarray, bound: float = 0.0) -> float:
    """Return the one-sided p of the null hypothesis that the differences lie at or below `bound`.

    Args:
      differences: float64 [N], candidate - incumbent, one value per problem.
      bound: The difference to exceed.
    """
    return math.exp(log_p(differences - bound))


def lowest(differences: np.ndarray, level: float) -> float:
    """Return the one-sided lower confidence bound of the differences.

    It is the largest bound that the test rejects at `level`, found by bisection.

    Args:
      differences: float64 [N], candidate - incumbent, one value per problem.
      level: Significance level of the test.

    Returns:
      The bound, or -inf if there are too few problems to reject any bound.
    """
    low, high = float(differences.min()) - 1.0, float(differences.max())
    if p_above(differences, low) > level:
        return -math.inf
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if p_above(differences, middle) <= level else (low, middle)
    return low
