"""p-values for a fall of paired rates, exact in finite samples: the sign-flip test.

Let x_i be the fall of problem i, less the margin. If the policy only stood still, a fall of any
size was as likely as a gain of that size, independently over problems. Given |x_1|, ..., |x_N|, all
2^N choices of signs were then equally likely, and

    p = P(sum e_i |x_i| >= sum x_i),   e_i = +-1 with equal probability
      = the share of the subsets J of {1..N} with sum_J x_i <= 0     (J: the signs that flip)

satisfies P(p <= u) <= u for every u (Fisher, The Design of Experiments, 1935, section 21). The
second form shows two facts that the guard rests on:

* p can only fall where an x_i grows. So p stays valid when each x_i is at most some symmetric
  variable, and these are independent: for a policy that stands still, that improves on any of the
  problems by any amounts, or whose problems trade places with equal chances. The margin is room
  beside that, for small falls; what else fits into it is simulated, not proven (benchmarks.guard).
* Rounding every x_i down to a grid can only raise p: counting on the grid is exact and safe.
"""

import math

import numpy as np
from scipy.special import log_ndtr

# P(sum a_i e_i >= z) <= BENTKUS Phi(-z) for sum a_i^2 = 1: Bentkus and Dzindzalieta, A tight
# Gaussian bound for weighted sums of Rademacher random variables, Bernoulli 21 (2015), theorem 1.1:
# 1 / (4 Phi(-sqrt 2)) = 3.17867, rounded up.
BENTKUS = 3.1787

CELLS = 1 << 14  # of the grid, over sum |x_i|: it costs 0.6% of z at most at 96 problems
LEAST = 1e-300  # below it products of halves could leave the range of float64


def log_bound(falls: np.ndarray) -> np.ndarray:
    """Bound log p from above, in one pass: log min(1, 3.1787 Phi(-z)), z = sum x / sqrt(sum x^2).

    Args:
      falls: float64 [..., N], x_i by problem.

    Returns:
      float64 [...], nats.
    """
    squares = np.einsum("...i,...i->...", falls, falls)
    z = falls.sum(axis=-1) / np.sqrt(np.maximum(squares, LEAST))
    return np.minimum(0.0, math.log(BENTKUS) + log_ndtr(-z))


def log_p(falls: np.ndarray) -> float:
    """Count log p exactly on the grid below the falls.

    A subset that sums to at most 0 contains falls worth no more than all gains together. So only
    sums up to that total are counted: few where there is much evidence.

    Args:
      falls: float64 [N], x_i by problem.

    Returns:
      log p in nats, from above by no more than the grid; at least log 1e-300.
    """
    if falls.sum() <= 0:
        return 0.0
    on_grid = np.floor(falls * (CELLS / np.abs(falls).sum())).astype(np.int64)
    most = int(-on_grid[on_grid < 0].sum())  # an e_i |x_i| that flips costs |x_i| of this
    sizes = np.abs(on_grid[on_grid != 0])
    share = np.zeros(most + 1)  # of the choices of signs, by the total that flips
    share[0] = 1.0
    for size in sizes[sizes <= most]:
        flipped = share[: most + 1 - size].copy()
        share[size:] += flipped
        share *= 0.5
    never = int((sizes > most).sum())  # that flip alone costs too much
    return max(math.log(max(share.sum(), LEAST)) - never * math.log(2), math.log(LEAST))
