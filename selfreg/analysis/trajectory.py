"""The shape of one campaign: how high it rose, how far it fell, and how suddenly.

Every number is a function of a series of (step, value) alone. The vectorized `Shapes` is the one
definition; the stationary null of `nullmodel` and a real campaign go through the same code.
"""

from dataclasses import dataclass

import numpy as np

from selfreg.run.records import Trace, peak_index

WINDOW = 5
GAP_LEVELS = (0.2, 0.3, 0.5)
COLLAPSE_RATIO = 0.3

# Means of multiples of 1/16 are not exact: a gap of just 0.2 should not count as one above 0.2.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Shapes:
    """The shapes of many series, as arrays of one shape [...]: one value a series.

    Numbers are float64 and NaN where they are not defined; a series without a value has none.

    Attributes:
      peak: Largest value.
      peak_step: The first step that has it.
      end: Last value that was measured.
      end_step: Its step.
      phase_transition: Largest drop between neighbouring measurements after the peak /
        (peak - end); NaN where peak - end is zero. It is 1 when a single step makes the whole drop,
        and above 1 when a series recovers in part from a larger fall.
      onset_step: The first step after the peak with a value below 30% of it; NaN without one. It
        may be defined for a series that recovered, and is for every one that collapsed.
    """

    peak: np.ndarray
    peak_step: np.ndarray
    end: np.ndarray
    end_step: np.ndarray
    phase_transition: np.ndarray
    onset_step: np.ndarray

    @property
    def gap(self) -> np.ndarray:
        """The drop peak - end, never negative."""
        return self.peak - self.end

    @property
    def ratio(self) -> np.ndarray:
        """The share of the peak that is left, end / peak; NaN where the peak is 0 or less."""
        undefined = np.full_like(self.peak, np.nan)
        return np.divide(self.end, self.peak, out=undefined, where=self.peak > 0)

    @property
    def collapsed(self) -> np.ndarray:
        """bool: end / peak < 0.3; False where the peak is 0, as nothing was there to lose."""
        return exceeds(COLLAPSE_RATIO * self.peak, self.end)

    @property
    def latency_steps(self) -> np.ndarray:
        """Steps left after the onset, end_step - onset_step; NaN without an onset."""
        return self.end_step - self.onset_step

    def gap_above(self, level: float) -> np.ndarray:
        """bool: whether the gap exceeds a level, strictly and up to rounding."""
        return exceeds(self.gap, level)


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


def shapes(values: np.ndarray, steps: np.ndarray | None = None) -> Shapes:
    """The shapes of many series.

    A flat series, and one of a single value, have their peak at their first measured step, a gap of
    0 and neither a phase-transition score nor an onset.

    Args:
      values: float [..., n], n at least 1; NaN where nothing was measured.
      steps: [n], increasing, the step of each value; 0 .. n - 1 by default.

    Returns:
      Arrays of shape [...].
    """
    values = np.asarray(values, np.float64)
    at = np.arange(values.shape[-1]) if steps is None else np.asarray(steps)
    missing = np.isnan(values)
    # What was measured moves to the front, in order, so that neighbours are neighbours.
    order = np.argsort(missing, axis=-1, kind="stable")
    values = np.take_along_axis(values, order, axis=-1)
    last = (~missing).sum(axis=-1) - 1
    defined = last >= 0
    index = peak_index(values)
    peak, end = _at(values, index), _at(values, np.maximum(last, 0))

    after = np.arange(values.shape[-1]) >= index[..., None]
    drops = np.where(after[..., :-1], -np.diff(values, axis=-1), 0.0)
    largest = np.nan_to_num(drops).max(axis=-1, initial=0.0)
    gap = peak - end
    score = np.divide(largest, gap, out=np.full_like(gap, np.nan), where=exceeds(gap, 0.0))

    below = after & exceeds(COLLAPSE_RATIO * peak[..., None], values)
    onset = np.where(below.any(axis=-1), at[_at(order, below.argmax(axis=-1))], np.nan)
    peak_step, end_step = (
        np.where(defined, at[_at(order, i)], np.nan) for i in (index, np.maximum(last, 0))
    )
    return Shapes(peak, peak_step, end, end_step, score, onset)


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
    shape = shapes(values, steps)

    def defined(value: np.ndarray) -> float | None:
        return None if np.isnan(value) else float(value)

    onset, latency = defined(shape.onset_step), defined(shape.latency_steps)
    return Trajectory(
        peak=float(shape.peak),
        peak_step=int(shape.peak_step),
        end=float(shape.end),
        end_step=int(shape.end_step),
        gap=float(shape.gap),
        ratio=defined(shape.ratio),
        collapsed=bool(shape.collapsed),
        phase_transition=defined(shape.phase_transition),
        onset_step=None if onset is None else int(onset),
        latency_steps=None if latency is None else int(latency),
    )


def of_trace(trace: Trace, window: int = 1) -> Trajectory:
    """The shape of a trace's metric, read through a rolling mean (1: as it is).

    Raises:
      ValueError: The metric was never measured.
    """
    steps, values = trace.series()
    return trajectory(steps, rolling_mean(values, window))


def _at(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    """values[..., n] at index[...]."""
    return np.take_along_axis(values, index[..., None], axis=-1)[..., 0]
