"""A drop from a peak that the same readings selected, tested without the selection's bias."""

from typing import NamedTuple

import numpy as np
from numpy.polynomial.hermite import hermgauss
from scipy.special import ndtr

from selfreg.run.records import peak_index

_NODES, _WEIGHTS = hermgauss(64)


class SelectedDrop(NamedTuple):
    """The drop from the largest of K readings of a panel to the last; arrays of shape [...].

    Attributes:
      drop: Largest mean - last mean, never negative and biased upwards.
      p: The chance of one at least as large when no reading differs from another but by noise; 1
        where the last reading is the largest.
      biased_p: What a paired test of the two would say, as if the peak had been named before.
    """

    drop: np.ndarray
    p: np.ndarray
    biased_p: np.ndarray


def selected_drop(panels: np.ndarray) -> SelectedDrop:
    """Test the drop from the best panel of a campaign to its last, the best having been selected.

    Dunnett's test of many against a control (1955), with problems as blocks: the control is the
    last reading. While the policy stands still, each problem's K rates are exchangeable, and by the
    central limit over problems the K means are v + s Z_k, Z independent standard normal, where
    s^2 N^2 is the sum over problems of the variance over readings. Then

        P(max_k Z_k - Z_K >= d) = 1 - integral of phi(z) Phi(z + d)^(K - 1) dz,   d = drop / s

    Readings with the same sampling seeds are exchangeable too, and s shrinks with their agreement.

    Args:
      panels: float [..., K, N], pass rates of N problems at K readings, the last being the end.
        K and N are at least 2.

    Raises:
      ValueError: There are too few readings or problems.
    """
    panels = np.asarray(panels, np.float64)
    if panels.ndim < 2 or min(panels.shape[-2:]) < 2:
        raise ValueError(f"needs at least 2 readings of 2 problems, not {panels.shape}")
    count, problems = panels.shape[-2:]
    means = panels.mean(axis=-1)
    peak = peak_index(means)
    best = np.take_along_axis(panels, peak[..., None, None], axis=-2)[..., 0, :]
    differences = best - panels[..., -1, :]
    drop = differences.mean(axis=-1)
    scale = np.sqrt(panels.var(axis=-2, ddof=1).sum(axis=-1)) / problems
    p = np.ones_like(drop)
    standard = np.divide(drop, scale, out=np.zeros_like(drop), where=scale > 0)
    below = ndtr(np.sqrt(2) * _NODES + standard[..., None]) ** (count - 1)
    p = np.where(standard > 0, 1 - below @ _WEIGHTS / np.sqrt(np.pi), p)

    error = differences.std(axis=-1, ddof=1) / np.sqrt(problems)
    z = np.divide(drop, error, out=np.zeros_like(drop), where=error > 0)
    return SelectedDrop(drop, np.clip(p, 0, 1), np.where(z > 0, ndtr(-z), 1.0))
