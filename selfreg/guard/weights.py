"""Weights that split the false alarm probability over looks and blocks; they sum to at most 1.

A test with weight w alarms at p <= alpha w. By the union bound, the probability of any false alarm
is then at most alpha, whatever the dependence between the tests.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

# Distances between the reference and the present block, in block lengths.
GAPS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32)

# sum over i >= 1 of 1 / ((i + 1) ln^2 (i + 1)), rounded up.
ANYTIME_SUM = 2.10975


def anytime(i: int) -> float:
    """Return the weight of test i (from 1) of an endless sequence; the weights sum to below 1."""
    return 1 / (ANYTIME_SUM * (i + 1) * math.log(i + 1) ** 2)


def over_time(i: int, planned: int | None, share: float) -> float:
    """Return the weight of test i (from 1) when `planned` tests are expected.

    The planned tests divide `share` of the weight evenly. The rest is spread over an endless
    sequence, so that a run longer than planned is still covered.
    """
    if not planned:
        return anytime(i)
    return share * (i <= planned) / planned + (1 - share) * anytime(i)


class Blocks(NamedTuple):
    """The comparisons of one look, each between two blocks of equal length.

    Attributes:
      lengths: int64 [B], n, the looks in a block. The present block is the last n looks.
      ends: int64 [B], number of looks up to the end of the reference block.
      shares: float64 [B], shares of the look's weight; they sum to 1.
    """

    lengths: np.ndarray
    ends: np.ndarray
    shares: np.ndarray


@lru_cache(maxsize=4096)
def blocks(looks: int) -> Blocks:
    """Return the comparisons after `looks` looks (at least 2).

    Block lengths are n = 2^j where max(1, n / 4) divides the number of looks. The reference ends
    g n looks before the present block begins, with g in GAPS. Shares are proportional to
    max(1, n / 4) / sqrt(j + 1), so that each j keeps its part of the weight even though long blocks
    are compared less often. Of the weights that were tried, these found the falls of
    benchmarks.guard soonest. The guarantee holds for any weights.
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
