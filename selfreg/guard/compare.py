"""Two policies on one panel that neither was selected by: is one better than a bound?

The sign-flip test of selfreg.guard.signflip, once. Its assumption: problems are a random sample,
and each difference lies as likely so far above the bound as below it where the null just holds.
"""

import math

import numpy as np

from selfreg.guard.signflip import log_p

_HALVINGS = 50


def p_above(differences: np.ndarray, bound: float = 0.0) -> float:
    """P of the null hypothesis that the differences lie at `bound`, or below.

    Args:
      differences: float64 [N], candidate - incumbent by problem.
      bound: What is to be exceeded.
    """
    return math.exp(log_p(differences - bound))


def lowest(differences: np.ndarray, level: float) -> float:
    """The one-sided lower confidence bound: the largest bound that is exceeded at the level.

    Args:
      differences: float64 [N], candidate - incumbent by problem.
      level: Of the test; -inf where so few problems exceed no bound.
    """
    low, high = float(differences.min()) - 1.0, float(differences.max())
    if p_above(differences, low) > level:
        return -math.inf
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if p_above(differences, middle) <= level else (low, middle)
    return low
