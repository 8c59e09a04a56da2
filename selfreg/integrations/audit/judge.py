"""Did the policy collapse? The verdict on a series of mean rewards alone.

Without a report panel, the peak is the largest of many noisy readings. The test accounts for this:
it computes how often a policy that does not change shows a drop at least as large, in units of its
own noise, if its peak is selected in the same way. The noise is estimated from the differences of
neighbouring steps, because a slow rise or fall hardly changes these.
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

# A long series is averaged in blocks into at least this many readings, and at most about twice.
READINGS = 500
_PERMUTATIONS = 2_000


@dataclass(frozen=True, slots=True)
class Kept:
    """The checkpoint that a stopping rule would have kept, by the smoothed metric.

    Attributes:
      step: Step of the checkpoint.
      value: Smoothed metric at that step.
      stop_step: Step at which the rule would have stopped; None if it would not have.
    """

    step: float
    value: float
    stop_step: float | None


@dataclass(frozen=True, slots=True)
class Audit:
    """The verdict on one series, with its evidence.

    If `counts.rate` is set, values are scaled: 0 at counts.low and 1 at counts.high. Otherwise they
    are as logged.

    Attributes:
      finding: The findings of `selfreg.analysis.verdict.judge`, on the smoothed metric; FAILED if
        the run broke down.
      failure: How the run broke down; empty if it did not.
      values: Number of finite values that were judged.
      steps: Last step of each full window.
      smoothed: float64, mean of the last `window` values at these steps.
      shape: Shape of the smoothed series.
      counts: What one value averages.
      window: Values in a window.
      per_reading: Values averaged into one reading; more than 1 in a long series.
      margin: The smallest drop that counts as a collapse.
      noise: Noise of one reading if the policy does not change.
      level: Mean of all values, which is the level of the null's policy.
      gap: Peak - end, with its null. p compares the gap in units of its noise, corrected for the
        selection of the peak.
      most: The largest drop that is not ruled out, at one-sided 5%.
      permutation_p: p of the gap among random orders of the readings; None if their noise is
        autocorrelated, so that the readings are not exchangeable.
      corrected_drop: The gap minus the null's mean gap: a low estimate of the true drop.
      corrected_peak: The peak minus its expected excess under the null: a low estimate.
      gain: Last full window - first full window.
      gain_p: One-sided p of the gain.
      early_stop: The checkpoint that ES keeps: the peak.
      next_budget: The budget that ES orders next: clamp(steps to the peak + 3, 8, 20).
      decline: How far below the running peak a reading must lie to count for the online rule.
      online: The checkpoint that the online rule keeps. It stops after three such readings in a
        row.
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
    """Judge a series of mean rewards: did it collapse, or does it show only noise?

    Args:
      series: [n], mean rewards of any range, one per logged step; at least two windows. It may be a
        list, an array, or a series or one-column frame of pandas or polars. A series that ends in
        NaN or infinities has failed; earlier ones are left out.
      samples_per_step: Completions behind one value. If a value averages k updates, it counts the
        completions of all k. None: found from the values, or else the noise is measured.
      problems_per_step: Distinct problems among these completions; must divide samples_per_step.
      steps: [n], strictly increasing; 0 .. n - 1 by default.
      window: Values to smooth over. Default: 5; with more than 999 values, a hundredth of them.
        Only full windows are used.
      margin: The smallest drop that counts as a collapse. Default: 0.1 for rates, and a tenth of
        the curve's span for other rewards.
      seed: Seed of the simulation.
      low: Reward of a failed completion, if it is not 0.
      high: Reward of a passed completion, if it is not 1.
      facts: Settings that the log states: see `selfreg.integrations.audit.counts`.
      parts: Rewards whose sum the series may be.
      failure: How the run is known to have broken down.

    Raises:
      ValueError: The series is too short or not numeric, or the counts do not match it.
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
            f"{short}{len(values)} finite values and window={window or WINDOW}: at least two "
            "windows are needed, each of at least 1 value"
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
    # The reading at the true peak is at most the observed peak, so that the noise of a single
    # difference bounds the true drop.
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
        raise ValueError(f"needs one value per step, not {values.shape} values at {at.shape} steps")
    if len(at) > 1 and not (np.diff(at) > 0).all():
        first = int(np.flatnonzero(~(np.diff(at) > 0))[0])
        raise ValueError(
            f"steps must increase: {at[first + 1]:g} follows {at[first]:g}; sort them, and judge "
            "each run separately"
        )


def _shape(ends: np.ndarray, smoothed: np.ndarray) -> Trajectory:
    """Compute the shape of a series whose steps need not be whole numbers."""
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
    """Average blocks of equal size; the first block also takes the remainder."""
    if each == 1:
        return values, at
    count = len(values) // each
    starts = len(values) - each * np.arange(count, 0, -1)
    starts[0] = 0
    sizes = np.diff([*starts, len(values)])
    return np.add.reduceat(values, starts) / sizes, at[starts + sizes - 1]


def _window_sd(noise: Noise, window: int) -> float:
    """Return the sd of a window's mean: for AR(1), sqrt(v / w (1 + 2 sum (1 - k / w) a^k))."""
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
