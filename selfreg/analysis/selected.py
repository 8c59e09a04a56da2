"""Test a drop from a peak that was selected from the same readings, corrected for the selection."""

from typing import NamedTuple

import numpy as np
from numpy.polynomial.hermite import hermgauss
from scipy.special import ndtr

from selfreg.run.records import peak_index

_NODES, _WEIGHTS = hermgauss(64)


class SelectedDrop(NamedTuple):
    """The drop from the largest of K panel readings to the last, as arrays of shape [...].

    Attributes:
      drop: Largest mean - last mean; never negative, and biased upwards.
      p: Probability of a drop at least as large if the readings differ only by noise; 1 if the last
        reading is the largest.
      biased_p: p of a paired test that ignores the selection of the peak.
    """

    drop: np.ndarray
    p: np.ndarray
    biased_p: np.ndarray


def selected_drop(panels: np.ndarray) -> SelectedDrop:
    """Test the drop from the best reading of a panel to the last, corrected for the selection.

    This is Dunnett's test of many treatments against a control (1955), with problems as blocks and
    the last reading as the control. If the policy does not change, the K rates of each problem are
    exchangeable. By the central limit theorem over problems, the K means are then v + s Z_k with
    independent standard normal Z_k, where s^2 N^2 is the sum over problems of the variance over
    readings, and

        P(max_k Z_k - Z_K >= d) = 1 - integral of phi(z) Phi(z + d)^(K - 1) dz,   d = drop / s

    Readings with the same sampling seeds are exchangeable too. Their agreement makes s smaller.

    Args:
      panels: float [..., K, N], pass rates of N problems at K readings, of which the last is the
        end. K and N are at least 2.

    Raises:
      ValueError: There are fewer than 2 readings or problems.
    """
    panels = np.asarray(panels, np.float64)
    if panels.ndim < 2 or min(panels.shape[-2:]) < 2:
        raise ValueError(f"panels must hold at least 2 readings of 2 problems, not {panels.shape}")
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
