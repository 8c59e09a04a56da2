"""Sign-flip test: p-values for a fall of paired rates, exact in finite samples.

Let x_i be the fall of problem i minus the margin. If the policy did not change, a fall of any size
is as likely as a gain of that size, independently for each problem. Given |x_1|, ..., |x_N|, all
2^N choices of signs are then equally likely, and

    p = P(sum e_i |x_i| >= sum x_i),   e_i = +-1 with equal probability
      = the share of the subsets J of {1..N} with sum_J x_i <= 0     (J: the signs that flip)

satisfies P(p <= u) <= u for every u (Fisher, The Design of Experiments, 1935, section 21). The
second form shows two facts that the guard relies on:

* p never rises when an x_i grows. So p stays valid if each x_i is at most a symmetric variable and
  these variables are independent. This covers a policy that does not change, one that improves on
  any problems by any amounts, and one whose problems gain or lose with equal probability. The
  margin additionally allows small falls. Which other changes fit into the margin is simulated, not
  proven (benchmarks.guard).
* Rounding every x_i down to a grid never lowers p, so counting on the grid is safe.
"""

import math

import numpy as np
from scipy.special import log_ndtr

# P(sum a_i e_i >= z) <= BENTKUS Phi(-z) for sum a_i^2 = 1: Bentkus and Dzindzalieta, A tight
# Gaussian bound for weighted sums of Rademacher random variables, Bernoulli 21 (2015), theorem 1.1:
# 1 / (4 Phi(-sqrt 2)) = 3.17867, rounded up.
BENTKUS = 3.1787

CELLS = 1 << 14  # grid cells over sum |x_i|; at 96 problems the grid costs at most 0.6% of z
LEAST = 1e-300  # products of halves below this could leave the range of float64


def log_bound(falls: np.ndarray) -> np.ndarray:
    """Bound log p from above: log min(1, 3.1787 Phi(-z)) with z = sum x / sqrt(sum x^2).

    Args:
      falls: float64 [..., N], x_i of each problem.

    Returns:
      float64 [...], nats.
    """
    squares = np.einsum("...i,...i->...", falls, falls)
    z = falls.sum(axis=-1) / np.sqrt(np.maximum(squares, LEAST))
    return np.minimum(0.0, math.log(BENTKUS) + log_ndtr(-z))


def log_p(falls: np.ndarray) -> float:
    """Compute log p exactly for the falls rounded down to the grid.

    In a subset that sums to at most 0, the falls total no more than all gains together. Only sums
    up to that total are counted, which are few when the evidence is strong.

    Args:
      falls: float64 [N], x_i of each problem.

    Returns:
      log p in nats, at least log 1e-300. It exceeds the true log p only by the rounding.
    """
    if falls.sum() <= 0:
        return 0.0
    on_grid = np.floor(falls * (CELLS / np.abs(falls).sum())).astype(np.int64)
    most = int(-on_grid[on_grid < 0].sum())  # the total of |x_i| that may flip
    sizes = np.abs(on_grid[on_grid != 0])
    share = np.zeros(most + 1)  # share of the choices of signs, by the total that flips
    share[0] = 1.0
    for size in sizes[sizes <= most]:
        flipped = share[: most + 1 - size].copy()
        share[size:] += flipped
        share *= 0.5
    never = int((sizes > most).sum())  # each of these exceeds the total on its own
    return max(math.log(max(share.sum(), LEAST)) - never * math.log(2), math.log(LEAST))
