"""Evidence from a panel: the same problems measured at every look.

Each look compares the block of the latest looks with earlier blocks of the same length. Because the
lengths are equal, the two means of a problem are exchangeable while its rate does not change. Their
difference is then symmetric, which is the assumption of the sign-flip test. The test needs neither
bounds on the rewards nor the number of samples.
"""

import math
from typing import NamedTuple

import numpy as np

from selfreg.guard.signflip import log_bound, log_p
from selfreg.guard.weights import Blocks, blocks, over_time

# The exact log p is computed only where its upper bound is within this many nats of the alarm.
NEAR = 4.0
PLANNED_SHARE = 0.9


class Strongest(NamedTuple):
    """The comparison with the strongest evidence.

    Attributes:
      log_evidence: log(weight / p) in nats; the alarm is at log(1 / alpha).
      log_p: Upper bound of log p, in nats.
      fall: Mean fall of the panel from the reference to the present block; the margin is not
        subtracted.
      reference: Looks of the reference block, as the half-open range (first, end).
      present: Looks of the present block, as the half-open range (first, end).
    """

    log_evidence: float
    log_p: float
    fall: float
    reference: tuple[int, int]
    present: tuple[int, int]


def falls(sums: np.ndarray, compared: Blocks, looks: int, margin: float) -> np.ndarray:
    """Return the fall of each problem in each comparison, minus the margin.

    Args:
      sums: float64 [..., T, N], cumulative sums of the rates: row i sums the first i looks. T must
        exceed `looks`.
      compared: The B comparisons of this look.
      looks: Number of looks so far.
      margin: The largest fall in mean reward that does not count.

    Returns:
      float64 [..., B, N].
    """
    lengths, ends = compared.lengths, compared.ends
    before = sums[..., ends, :] - sums[..., ends - lengths, :]
    now = sums[..., looks, :][..., None, :] - sums[..., looks - lengths, :]
    return (before - now) / lengths[:, None] - margin


def log_weights(compared: Blocks, looks: int, planned: int | None) -> np.ndarray:
    """Return log(weight) of each comparison of a look: float64 [B].

    Args:
      compared: The B comparisons of this look.
      looks: Number of looks so far.
      planned: Looks of the whole run; None if unknown.
    """
    omega = over_time(looks - 1, planned and max(1, planned - 1), PLANNED_SHARE)
    return np.log(compared.shares) + math.log(omega)


def strongest(
    sums: np.ndarray, margin: float, planned: int | None, alpha: float
) -> Strongest | None:
    """Return the strongest evidence of the last look; None with a single look.

    Args:
      sums: float64 [t + 1, N], cumulative sums of the mean reward of each problem: row i sums the
        first i looks.
      margin: The largest fall in mean reward that does not count.
      planned: Looks of the whole run; None if unknown.
      alpha: Level of the alarm. It decides only which p-values are computed exactly.
    """
    looks = len(sums) - 1
    if looks < 2:
        return None
    compared = blocks(looks)
    fallen = falls(sums, compared, looks, margin)
    logs, weights = log_bound(fallen), log_weights(compared, looks, planned)
    for at in near(logs, weights, alpha):
        logs[at] = min(logs[at], log_p(fallen[at]))
    best = int(np.argmax(weights - logs))
    length, end = int(compared.lengths[best]), int(compared.ends[best])
    return Strongest(
        float(weights[best] - logs[best]),
        float(logs[best]),
        float(fallen[best].mean() + margin),
        (end - length, end),
        (looks - length, looks),
    )


def near(log_bounds: np.ndarray, weights: np.ndarray, alpha: float) -> np.ndarray:
    """Return the indices of the comparisons whose p must be computed exactly, one column per axis.

    An exact p is never larger than its bound, so leaving a comparison out costs power but never
    validity.
    """
    reach = weights - log_bounds + math.log(alpha)
    return np.flatnonzero(reach > -NEAR) if reach.ndim == 1 else np.argwhere(reach > -NEAR)
