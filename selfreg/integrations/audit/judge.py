"""Did it collapse? The verdict on a series of mean rewards, when that is all there is.

Without a report panel the peak is the largest of many noisy readings. The test takes that into
account: it asks how often a policy that stands still, read in the same way, shows as large a drop
in units of its own noise. That noise is measured from neighbouring steps, which a slow rise or fall
leaves nearly equal.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np

from selfreg.analysis.chains import DECLINE, online_stop
from selfreg.analysis.finding import LEVEL, MARGIN, Finding
from selfreg.analysis.nullmodel import NullTest
from selfreg.analysis.trajectory import WINDOW, Trajectory, trajectory
from selfreg.integrations.audit import noise as noises
from selfreg.integrations.audit.counts import Counts, choose
from selfreg.integrations.audit.noise import Noise, p_value, windows
from selfreg.integrations.audit.series import failed_from, numbers

# A longer series is read as so many means of equally many values, or up to twice as many.
READINGS = 500
_PERMUTATIONS = 2_000


@dataclass(frozen=True, slots=True)
class Kept:
    """What a stopping rule would have kept, on the smoothed metric.

    Attributes:
      step: The step whose checkpoint it keeps.
      value: The smoothed metric there.
      stop_step: Where it would have stopped; None: it would not have.
    """

    step: float
    value: float
    stop_step: float | None


@dataclass(frozen=True, slots=True)
class Audit:
    """The verdict on one series, and what it rests on.

    Values are rates where `counts.rate`: 0 at counts.low, 1 at counts.high; else as logged.

    Attributes:
      finding: As `selfreg.analysis.verdict.judge` has them, on the smoothed metric; FAILED where
        the run broke down.
      failure: How it broke down; empty: it did not.
      values: Finite values that were judged.
      steps: Of each full window, where it ends.
      smoothed: float64, the mean of the last `window` values at those steps.
      shape: The smoothed series.
      counts: What one value is the mean of.
      window: Values a mean is taken over.
      per_reading: Values that are one reading: more than 1 in a long series.
      margin: A smaller drop is no collapse.
      noise: Of one reading, while the policy stands still.
      level: The mean of all values: where the policy of the null stands still.
      gap: Peak - end, with its null; p is of the gap in units of noise, selection accounted for.
      most: The largest drop that is not ruled out, at one-sided 5%.
      permutation_p: p of the same gap among the readings in random order; None where their noise is
        autocorrelated, which makes their order no accident.
      corrected_drop: The gap less the null's mean gap: a lower estimate of the true drop.
      corrected_peak: The peak less the null's expected excess: a lower estimate.
      gain: Last full window - first.
      gain_p: One-sided p of a gain.
      early_stop: What ES keeps: the peak.
      next_budget: What ES orders next: clamp(steps to the peak + 3, 8, 20).
      decline: How far below the running peak the online rule counts a reading.
      online: What the online rule keeps: three readings in a row that far below the peak.
    """

    finding: Finding
    failure: str
    values: int
    steps: np.ndarray
    smoothed: np.ndarray
    shape: Trajectory
    counts: Counts
    window: int
    per_reading: int
    margin: float
    noise: Noise
    level: float
    gap: NullTest
    most: float
    permutation_p: float | None
    corrected_drop: float
    corrected_peak: float
    gain: float
    gain_p: float
    early_stop: Kept
    next_budget: int
    decline: float
    online: Kept


def audit(
    series: Any,
    samples_per_step: float | None = None,
    problems_per_step: float | None = None,
    steps: Any = None,
    window: int | None = None,
    margin: float | None = None,
    seed: int = 0,
    low: float | None = None,
    high: float | None = None,
    facts: Mapping[str, float] | None = None,
    parts: Sequence[str] = (),
    failure: str = "",
) -> Audit:
    """Judge a series of mean rewards: has it collapsed, or is that noise?

    Args:
      series: [n], mean rewards of any range, one a logged step; at least two windows. A list, an
        array, a series or a frame of one column of pandas or polars. A series that ends in NaN or
        infinities failed; those before are left out.
      samples_per_step: Completions behind one value: those of k updates, when every k-th is logged
        as their mean; None: told by the values, or measured.
      problems_per_step: Distinct problems among them; it divides samples_per_step.
      steps: [n], strictly increasing; 0 .. n - 1 by default.
      window: Values to smooth over, 5 by default, and of more than 999 values a hundredth; only
        full windows count.
      margin: A smaller drop is no collapse; what is surely smaller is stable. 0.1 of a rate by
        default, and of other rewards a tenth of the curve's span.
      seed: Of the simulation.
      low: The reward of a fail, where that is not 0.
      high: The reward of a pass, where that is not 1.
      facts: Settings that the log states: see `selfreg.integrations.audit.counts`.
      parts: Rewards that the series is the sum of.
      failure: How the run is known to have broken down.

    Raises:
      ValueError: The series is too short or holds no numbers, or the counts do not fit.
    """
    logged = numbers(series, "series")
    at = np.arange(len(logged)) if steps is None else numbers(steps, "steps")
    _check(logged, at)
    broken = failed_from(logged)
    if broken is not None and not failure:
        failure = f"it is {logged[-1]:g} from step {at[broken]:g} to the end"
    finite = np.isfinite(logged)
    values, at = logged[finite], at[finite]
    short = f"the run FAILED ({failure}), and before that " if failure else ""
    if (window is not None and window < 1) or len(values) < 2 * (window or WINDOW):
        raise ValueError(
            f"{short}{len(values)} finite values and window={window or WINDOW}: two windows of at "
            "least 1 are needed"
        )
    counts = choose(values, samples_per_step, problems_per_step, low, high, facts, parts)
    if counts.rate:
        values = np.clip((values - counts.low) / (counts.high - counts.low), 0, 1)
    return _judged(values, at, counts, window, margin, seed, failure)


def _judged(
    values: np.ndarray, at: np.ndarray, counts: Counts, window: int | None, margin: float | None,
    seed: int, failure: str,
) -> Audit:  # fmt: skip
    each = max(1, min(len(values) // READINGS, window or len(values)))
    count = len(values)
    values, at = _blocks(values, at, each)
    wide = WINDOW if window is None else max(1, round(window / each))
    samples = None if counts.samples is None else counts.samples * each
    problems = None if counts.problems is None else counts.problems * each
    noise = noises.measure(values, samples, problems, seed)
    null = noises.still(noise, values, samples, problems, wide, seed, counts.rate)
    smoothed, ends = windows(values, wide), at[wide - 1 :]
    shape = _shape(ends, smoothed)
    span = float(smoothed.max() - smoothed.min())
    margin = margin if margin is not None else MARGIN if counts.rate else MARGIN * span
    decline = DECLINE if counts.rate else DECLINE * span

    null_gap = null.peak - null.last
    lowest, highest = np.quantile(null_gap, (0.025, 0.975))
    gap_p = p_value(shape.gap, noise.sd, null_gap, null.sd)
    gap = NullTest(shape.gap, float(null_gap.mean()), float(lowest), float(highest), gap_p)
    gain = float(smoothed[-1] - smoothed[0])
    gain_p = p_value(gain, noise.sd, null.last - null.first, null.sd)
    corrected_peak = shape.peak - float(null.peak.mean() - values.mean())
    # The true peak's reading is no larger than the peak: one difference's noise bounds the drop.
    normal = NormalDist().inv_cdf(1 - LEVEL)
    most = shape.gap + normal * _window_sd(noise, wide) * float(np.sqrt(2))
    corrected_drop = max(0.0, shape.gap - gap.null_mean)
    finding = _finding(
        shape.gap, corrected_drop, gap.p, most, corrected_peak, gain_p, margin, counts
    )
    stops = online_stop(smoothed, ends, decline)
    updates = (int(np.searchsorted(at, shape.peak_step)) + 1) * each
    permuted = None if noise.autocorrelation else _permuted(values, wide, shape.gap, seed)
    return Audit(
        Finding.FAILED if failure else finding, failure, count, ends, smoothed, shape, counts,
        wide * each, each, margin, noise, float(values.mean()), gap, most, permuted,
        corrected_drop, corrected_peak, gain, gain_p, Kept(shape.peak_step, shape.peak, None),
        int(np.clip(updates + 3, 8, 20)), decline,
        Kept(float(stops.kept_step), float(stops.kept),
             float(stops.stop_step) if bool(stops.fired) else None),
    )  # fmt: skip


def _finding(
    gap: float, corrected_drop: float, gap_p: float, most: float, corrected_peak: float,
    gain_p: float, margin: float, counts: Counts,
) -> Finding:  # fmt: skip
    if counts.rate and corrected_peak <= 0 and gap == 0 and gain_p == 1:
        return Finding.NOTHING_TO_LOSE  # every value is 0
    if gap > 0:
        if counts.samples is not None and corrected_peak < margin:
            return Finding.NOTHING_TO_LOSE
        if gap_p <= LEVEL:
            return Finding.COLLAPSED if corrected_drop >= margin else Finding.DECLINED
        if most >= margin and gain_p > LEVEL:
            return Finding.NOISE
    if gain_p <= LEVEL:
        return Finding.IMPROVED
    return Finding.STABLE if gap > 0 else Finding.NO_DROP


def _check(values: np.ndarray, at: np.ndarray) -> None:
    if values.ndim != 1 or at.shape != values.shape:
        raise ValueError(f"needs one value a step, not {values.shape} at {at.shape}")
    if len(at) > 1 and not (np.diff(at) > 0).all():
        first = int(np.flatnonzero(~(np.diff(at) > 0))[0])
        raise ValueError(
            f"steps must increase: {at[first + 1]:g} follows {at[first]:g}; sort them, and judge "
            "runs one by one"
        )


def _shape(ends: np.ndarray, smoothed: np.ndarray) -> Trajectory:
    """The shape of a series whose steps need not be whole."""
    shape = trajectory(np.arange(len(ends)), smoothed)

    def at(index: int | None) -> Any:
        return None if index is None else ends[index].item()

    onset, end = at(shape.onset_step), at(shape.end_step)
    return replace(
        shape,
        peak_step=at(shape.peak_step),
        end_step=end,
        onset_step=onset,
        latency_steps=None if onset is None else end - onset,
    )


def _blocks(values: np.ndarray, at: np.ndarray, each: int) -> tuple[np.ndarray, np.ndarray]:
    """Means of equally many values each, of the first one of those that are left over too."""
    if each == 1:
        return values, at
    count = len(values) // each
    starts = len(values) - each * np.arange(count, 0, -1)
    starts[0] = 0
    sizes = np.diff([*starts, len(values)])
    return np.add.reduceat(values, starts) / sizes, at[starts + sizes - 1]


def _window_sd(noise: Noise, window: int) -> float:
    """Of a window's mean: of an AR(1) process its variance is v / w (1 + 2 sum (1 - k / w) a^k)."""
    k = np.arange(1, window)
    shared = 1 + 2 * float(((1 - k / window) * noise.autocorrelation**k).sum())
    return float(noise.sd * np.sqrt(shared / window))


def _permuted(values: np.ndarray, window: int, gap: float, seed: int) -> float:
    rng = np.random.default_rng(seed)
    hits, done = 0, 0
    batch = max(1, 4_000_000 // len(values))
    count = int(np.clip(20_000_000 // len(values), 200, _PERMUTATIONS))
    while done < count:
        orders = np.tile(values, (min(batch, count - done), 1))
        smooth = windows(rng.permuted(orders, axis=1), window)
        hits += int((smooth.max(axis=1) - smooth[:, -1] >= gap - 1e-9).sum())
        done += len(orders)
    return (1 + hits) / (1 + count)
