"""The shape of one campaign: how high it rose, how far it fell, and how suddenly.

Every number is a function of a series of (step, value) alone. The vectorized `Shapes` is the one
definition; the stationary null of `nullmodel` and a real campaign go through the same code.
"""

from dataclasses import dataclass

import numpy as np

from selfreg.records import Trace

WINDOW = 5
GAP_LEVELS = (0.2, 0.3, 0.5)
COLLAPSE_RATIO = 0.3

# Means of multiples of 1/16 are not exact: a gap of just 0.2 should not count as one above 0.2.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Shapes:
    """The shapes of C series of n values each, as arrays of length C.

    Attributes:
      peak: Largest value.
      peak_index: Where it is first reached.
      end: Last value.
      phase_transition: Largest drop between neighbours after the peak / (peak - end); NaN where
        peak - end is zero. It is 1 when a single step makes the whole drop, and above 1 when a
        series recovers in part from a larger fall.
    """

    peak: np.ndarray
    peak_index: np.ndarray
    end: np.ndarray
    phase_transition: np.ndarray

    @property
    def gap(self) -> np.ndarray:
        """The drop peak - end, never negative."""
        return self.peak - self.end


@dataclass(frozen=True, slots=True)
class Trajectory:
    """The shape of one campaign's series.

    Attributes:
      peak: Largest value.
      peak_step: The first step that has it.
      end: Value at the last measured step.
      end_step: The last measured step.
      gap: peak - end, at least 0.
      ratio: end / peak; None when the peak is 0.
      collapsed: ratio < 0.3; False when the peak is 0, as nothing was there to lose.
      phase_transition: Largest drop between neighbouring measurements after the peak, divided by
        the gap; None when the gap is zero. With a measurement at every step this is the paper's
        single-step drop.
      onset_step: The first measured step after the peak with a value below 30% of it; None when
        there is none.
      latency_steps: Steps left after the onset, end_step - onset_step; None without an onset.
    """

    peak: float
    peak_step: int
    end: float
    end_step: int
    gap: float
    ratio: float | None
    collapsed: bool
    phase_transition: float | None
    onset_step: int | None
    latency_steps: int | None

    def gap_above(self, level: float) -> bool:
        """Whether the gap exceeds a level, strictly and up to rounding."""
        return bool(exceeds(self.gap, level))


def exceeds(values: np.ndarray | float, level: np.ndarray | float) -> np.ndarray:
    """Whether value > level, where values that differ by rounding alone are equal."""
    return np.asarray(values) > np.asarray(level) + _ROUNDING


def rolling_mean(values: np.ndarray, window: int = WINDOW) -> np.ndarray:
    """Mean over the last `window` values; at the start, over as many as there are.

    Args:
      values: float [..., n].
      window: At least 1.

    Returns:
      float64 [..., n]: element i is the mean of values[max(0, i - window + 1) .. i].
    """
    values = np.asarray(values, np.float64)
    if window < 1:
        raise ValueError(f"window={window}: it must be at least 1")
    last = np.arange(1, values.shape[-1] + 1)
    first = np.maximum(last - window, 0)
    sums = np.concatenate([np.zeros((*values.shape[:-1], 1)), np.cumsum(values, axis=-1)], axis=-1)
    return (sums[..., last] - sums[..., first]) / (last - first)


def shapes(values: np.ndarray) -> Shapes:
    """The shapes of many series of the same length.

    Args:
      values: float [C, n], n at least 1.
    """
    values = np.asarray(values, np.float64)
    index = values.argmax(axis=1)
    peak, end = values.max(axis=1), values[:, -1]
    drops = np.where(np.arange(values.shape[1] - 1) >= index[:, None], -np.diff(values), 0.0)
    largest = drops.max(axis=1, initial=0.0)
    gap = peak - end
    score = np.full(len(values), np.nan)
    np.divide(largest, gap, out=score, where=exceeds(gap, 0.0))
    return Shapes(peak, index, end, score)


def trajectory(steps: np.ndarray, values: np.ndarray) -> Trajectory:
    """The shape of one series.

    A flat series, and one of a single value, have their peak at their first step, a gap of 0 and
    neither a phase-transition score nor an onset.

    Args:
      steps: int [n], increasing, where the values were measured.
      values: float [n], rates.

    Raises:
      ValueError: There is no value, the lengths differ, or a value is not finite.
    """
    steps, values = np.asarray(steps), np.asarray(values, np.float64)
    if not len(values) or steps.shape != values.shape:
        raise ValueError(
            f"a trajectory needs one value a step, not {values.shape} at {steps.shape}"
        )
    if not np.isfinite(values).all():
        raise ValueError("a trajectory holds a value that is not finite")
    shape = shapes(values[None])
    peak, index, end = float(shape.peak[0]), int(shape.peak_index[0]), float(shape.end[0])
    score = float(shape.phase_transition[0])
    below = np.flatnonzero(values[index:] < COLLAPSE_RATIO * peak - _ROUNDING)
    onset = int(steps[index + below[0]]) if len(below) else None
    end_step = int(steps[-1])
    return Trajectory(
        peak=peak,
        peak_step=int(steps[index]),
        end=end,
        end_step=end_step,
        gap=peak - end,
        ratio=end / peak if peak > 0 else None,
        collapsed=bool(end < COLLAPSE_RATIO * peak - _ROUNDING),
        phase_transition=None if np.isnan(score) else score,
        onset_step=onset,
        latency_steps=None if onset is None else end_step - onset,
    )


def of_trace(trace: Trace, window: int = 1) -> Trajectory:
    """The shape of a trace's metric, read through a rolling mean (1: as it is).

    Raises:
      ValueError: The metric was never measured.
    """
    steps, values = trace.series()
    return trajectory(steps, rolling_mean(values, window))
