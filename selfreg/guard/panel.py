"""Evidence from a panel: the same problems measured at every look.

Each look compares a block of the last looks with blocks of as many earlier ones. Blocks being
equally long, a problem's two means are exchangeable while its rate stands still, so that their
difference is symmetric: what the sign-flip test asks for. Neither bounds of the rewards nor the
number of samples enter.
"""

import math
from typing import NamedTuple

import numpy as np

from selfreg.guard.signflip import log_bound, log_p
from selfreg.guard.weights import Blocks, blocks, over_time

# log p is counted where its bound is within so many nats of the alarm.
NEAR = 4.0
PLANNED_SHARE = 0.9


class Strongest(NamedTuple):
    """The comparison that speaks loudest.

    Attributes:
      log_evidence: log(weight / p), nats; the alarm is at log(1 / alpha).
      log_p: log p, from above.
      fall: Mean fall of the panel from the reference to the present block, margin not taken off.
      reference: The looks of the reference block: from this index, and up to that one without it.
      present: Ditto, of the present block.
    """

    log_evidence: float
    log_p: float
    fall: float
    reference: tuple[int, int]
    present: tuple[int, int]


def falls(sums: np.ndarray, compared: Blocks, looks: int, margin: float) -> np.ndarray:
    """The fall of each problem between the blocks of each comparison, less the margin.

    Args:
      sums: float64 [..., T, N], sums of the rates over the looks before; T > looks.
      compared: The B comparisons of this look.
      looks: How many there are by now.
      margin: What is no fall yet.

    Returns:
      float64 [..., B, N].
    """
    lengths, ends = compared.lengths, compared.ends
    before = sums[..., ends, :] - sums[..., ends - lengths, :]
    now = sums[..., looks, :][..., None, :] - sums[..., looks - lengths, :]
    return (before - now) / lengths[:, None] - margin


def log_weights(compared: Blocks, looks: int, planned: int | None) -> np.ndarray:
    """log(weight) of each comparison of a look: float64 [B]. `planned`: looks of the whole run."""
    omega = over_time(looks - 1, planned and max(1, planned - 1), PLANNED_SHARE)
    return np.log(compared.shares) + math.log(omega)


def strongest(
    sums: np.ndarray, margin: float, planned: int | None, alpha: float
) -> Strongest | None:
    """The strongest evidence of the last look; None with a single look.

    Args:
      sums: float64 [t + 1, N], of the mean rewards of each problem over the looks before.
      margin: What is no fall yet.
      planned: Looks of the whole run; None: unknown.
      alpha: Of the alarm. It decides only where p is counted exactly, not what p is.
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
    """Indices, one column an axis, of the comparisons whose p has to be counted exactly.

    Counting makes evidence larger only: one that is left out costs power, and never validity.
    """
    reach = weights - log_bounds + math.log(alpha)
    return np.flatnonzero(reach > -NEAR) if reach.ndim == 1 else np.argwhere(reach > -NEAR)
