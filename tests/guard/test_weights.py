"""The weights sum to at most 1, which the union bound requires."""

import math

import numpy as np
import pytest

from selfreg.guard.weights import ANYTIME_SUM, GAPS, anytime, blocks, over_time


def test_the_anytime_weights_sum_to_one_at_most():
    count = 200_000
    tail = 1 / math.log(count + 1)  # the integral of 1 / (x ln^2 x) from count + 1 on
    total = math.fsum(1 / ((i + 1) * math.log(i + 1) ** 2) for i in range(1, count + 1)) + tail
    assert total <= ANYTIME_SUM <= total + 1e-4
    assert anytime(1) == pytest.approx(1 / (2 * math.log(2) ** 2) / ANYTIME_SUM)


@pytest.mark.parametrize(("planned", "share"), [(20, 0.9), (199, 0.9), (50, 0.5), (None, 0.9)])
def test_a_runs_weights_sum_to_one_at_most(planned, share):
    total = math.fsum(over_time(i, planned, share) for i in range(1, 50_000))
    assert 0.9 * share < total <= 1


@pytest.mark.parametrize("looks", [2, 3, 7, 16, 61, 64, 200, 1999, 2048])
def test_blocks_of_a_look(looks):
    lengths, ends, shares = blocks(looks)
    assert math.fsum(shares) == pytest.approx(1)
    assert (shares > 0).all()
    assert (ends >= lengths).all()  # a whole reference block
    assert (ends <= looks - lengths).all()  # before the present one
    assert set((looks - lengths - ends) // lengths) <= set(GAPS)
    assert len(set(zip(lengths, ends, strict=True))) == len(lengths)


def test_blocks_by_hand():
    """After 4 looks: blocks of 1 with gaps of 0, 1 and 2, and blocks of 2 with gap 0."""
    lengths, ends, shares = blocks(4)
    assert list(zip(lengths, ends, strict=True)) == [(1, 3), (1, 2), (1, 1), (2, 2)]
    parts = np.array([1, 1, 1, 1 / math.sqrt(2)])
    assert shares == pytest.approx(parts / parts.sum())


def test_long_blocks_are_compared_every_quarter_of_their_length():
    assert 32 in blocks(72).lengths
    assert 32 not in blocks(73).lengths
