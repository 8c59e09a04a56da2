"""How the probability of a false alarm is spent over looks and blocks: weights that sum to 1.

A p-value of the test with weight w alarms at p <= alpha w. Whatever the dependence between tests,
the probability that any of them alarms falsely is then at most alpha (the union bound).
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

# Lengths between the reference and the present block, in lengths of a block.
GAPS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32)

# sum over i >= 1 of 1 / ((i + 1) ln^2 (i + 1)), rounded up.
ANYTIME_SUM = 2.10975


def anytime(i: int) -> float:
    """The weight of the i-th test, from 1, of a sequence without end; they sum to less than 1."""
    return 1 / (ANYTIME_SUM * (i + 1) * math.log(i + 1) ** 2)


def over_time(i: int, planned: int | None, share: float) -> float:
    """The weight of the i-th test, from 1, where `planned` tests are expected.

    `share` of the weight is spent evenly over the planned tests, the rest over all that may follow:
    a run that lasts longer than planned is still covered.
    """
    if not planned:
        return anytime(i)
    return share * (i <= planned) / planned + (1 - share) * anytime(i)


class Blocks(NamedTuple):
    """The comparisons of one look, each of two blocks of equal length.

    Attributes:
      lengths: int64 [B], n: looks in a block. The present block is the last n looks.
      ends: int64 [B], looks up to the end of the reference block.
      shares: float64 [B], of the look's weight; they sum to 1.
    """

    lengths: np.ndarray
    ends: np.ndarray
    shares: np.ndarray


@lru_cache(maxsize=4096)
def blocks(looks: int) -> Blocks:
    """The comparisons after so many looks (at least 2).

    n = 2^j, where max(1, n / 4) divides the number of looks; the reference ends g n looks before
    the present block begins, g in GAPS. Shares are in proportion to max(1, n / 4) / sqrt(j + 1):
    each j has its part of the weight, however seldom it is looked at. Of the weights that were
    tried these found the falls of benchmarks.guard soonest; the guarantee holds for any.
    """
    rows = []
    length, j = 1, 0
    while 2 * length <= looks:
        stride = max(1, length // 4)
        if looks % stride == 0:
            ends = [looks - length - gap * length for gap in GAPS]
            share = stride / math.sqrt(j + 1)
            rows += [(length, end, share) for end in ends if end >= length]
        length, j = 2 * length, j + 1
    lengths, at, shares = (np.array(column) for column in zip(*rows, strict=True))
    return Blocks(lengths, at, shares / shares.sum())
