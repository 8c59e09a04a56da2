"""Shape statistics of a campaign: how high it rose, how far it fell, and how suddenly.

Every statistic is a function of a series of (step, value) alone. The vectorized `shapes` is the
only definition: real campaigns and the null campaigns of `nullmodel` use the same code.
"""

from dataclasses import dataclass

import numpy as np

from selfreg.run.records import Trace, peak_index

WINDOW = 5
GAP_LEVELS = (0.2, 0.3, 0.5)
COLLAPSE_RATIO = 0.3

# Means of multiples of 1/16 are rounded: a gap of exactly 0.2 must not count as above 0.2.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Shapes:
    """The shapes of many series, as arrays of shape [...] with one value per series.

    Numbers are float64. An undefined number is NaN, and all are undefined for an empty series.

    Attributes:
      peak: Largest value.
      peak_step: First step with that value.
      end: Last measured value.
      end_step: Step of that value.
      phase_transition: Largest drop between neighbouring measurements after the peak, divided by
        peak - end; NaN where peak - end is zero. It is 1 if a single step makes the whole drop, and
        above 1 if the series partly recovers from a larger drop.
      onset_step: First step after the peak with a value below 30% of the peak; NaN without one.
        Every collapsed series has one, and a series that recovered may have one.
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
        """The remaining share of the peak, end / peak; NaN where the peak is 0 or less."""
        undefined = np.full_like(self.peak, np.nan)
        return np.divide(self.end, self.peak, out=undefined, where=self.peak > 0)

    @property
    def collapsed(self) -> np.ndarray:
        """bool, end / peak < 0.3; False where the peak is 0, which leaves nothing to lose."""
        return exceeds(COLLAPSE_RATIO * self.peak, self.end)

    @property
    def latency_steps(self) -> np.ndarray:
        """Steps left after the onset, end_step - onset_step; NaN without an onset."""
        return self.end_step - self.onset_step

    def gap_above(self, level: float) -> np.ndarray:
        """Return whether the gap strictly exceeds a level, up to rounding."""
        return exceeds(self.gap, level)


@dataclass(frozen=True, slots=True)
class Trajectory:
    """The shape of one campaign's series.

    Attributes:
      peak: Largest value.
      peak_step: First step with that value.
      end: Value at the last measured step.
      end_step: Last measured step.
      gap: peak - end, at least 0.
      ratio: end / peak; None if the peak is 0.
      collapsed: Whether ratio < 0.3; False if the peak is 0, which leaves nothing to lose.
      phase_transition: Largest drop between neighbouring measurements after the peak, divided by
        the gap; None if the gap is zero. If every step was measured, this is the paper's
        single-step drop.
      onset_step: First measured step after the peak with a value below 30% of the peak; None
        without one.
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
        """Return whether the gap strictly exceeds a level, up to rounding."""
        return bool(exceeds(self.gap, level))


def exceeds(values: np.ndarray | float, level: np.ndarray | float) -> np.ndarray:
    """Return whether value > level, treating values that differ only by rounding as equal."""
    return np.asarray(values) > np.asarray(level) + _ROUNDING


def rolling_mean(values: np.ndarray, window: int = WINDOW) -> np.ndarray:
    """Average the last `window` values; at the start of the series, all values so far.

    Args:
      values: float [..., n].
      window: At least 1.

    Returns:
      float64 [..., n]: element i is the mean of values[max(0, i - window + 1) .. i].
    """
    values = np.asarray(values, np.float64)
    if window < 1:
        raise ValueError(f"window={window} must be at least 1")
    last = np.arange(1, values.shape[-1] + 1)
    first = np.maximum(last - window, 0)
    sums = np.concatenate([np.zeros((*values.shape[:-1], 1)), np.cumsum(values, axis=-1)], axis=-1)
    return (sums[..., last] - sums[..., first]) / (last - first)


def shapes(values: np.ndarray, steps: np.ndarray | None = None) -> Shapes:
    """Compute the shapes of many series.

    A flat series, and a series of one value, has its peak at the first measured step, a gap of 0,
    no phase-transition score and no onset.

    Args:
      values: float [..., n], n at least 1; NaN where nothing was measured.
      steps: [n], increasing, step of each value; 0 .. n - 1 by default.

    Returns:
      Arrays of shape [...].
    """
    values = np.asarray(values, np.float64)
    at = np.arange(values.shape[-1]) if steps is None else np.asarray(steps)
    missing = np.isnan(values)
    # Move measured values to the front, in order, so that neighbours are adjacent.
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
    """Compute the shape of one series.

    A flat series, and a series of one value, has its peak at the first step, a gap of 0, no
    phase-transition score and no onset.

    Args:
      steps: int [n], increasing, steps of the measurements.
      values: float [n], rates.

    Raises:
      ValueError: The series is empty, the lengths differ, or a value is not finite.
    """
    steps, values = np.asarray(steps), np.asarray(values, np.float64)
    if not len(values) or steps.shape != values.shape:
        raise ValueError(
            f"a trajectory needs one value per step, not {values.shape} values at {steps.shape}"
        )
    if not np.isfinite(values).all():
        raise ValueError("a trajectory needs finite values")
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
    """Compute the shape of a trace's metric after a rolling mean; a window of 1 leaves it as is.

    Raises:
      ValueError: The metric was never measured.
    """
    steps, values = trace.series()
    return trajectory(steps, rolling_mean(values, window))


def _at(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Return values[..., n] at index[...]."""
    return np.take_along_axis(values, index[..., None], axis=-1)[..., 0]
