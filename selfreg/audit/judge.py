"""Did it collapse? The verdict on a series of mean rewards, when that is all there is.

Without a report panel the peak is the largest of many noisy readings. The test takes that into
account: it asks how often a policy that stands still, read in the same way, shows as large a drop
in units of its own noise. That noise is measured from neighbouring steps, which a slow rise or fall
leaves nearly equal.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from selfreg.analysis.chains import online_stop
from selfreg.analysis.nullmodel import Beta, NullTest, Reading, permute, readings
from selfreg.analysis.trajectory import WINDOW, Trajectory, exceeds, rolling_mean, trajectory
from selfreg.analysis.verdict import LEVEL, MARGIN, Finding

SIMULATED = 3_000
# Beyond so many draws a campaign, a step's mean is drawn from a normal distribution instead.
_EXACT_DRAWS = 5_000
_CONCENTRATIONS = (1e-3, 1e3)


@dataclass(frozen=True, slots=True)
class Kept:
    """What a stopping rule would have kept, on the smoothed metric.

    Attributes:
      step: The step whose checkpoint it keeps.
      value: The smoothed metric there.
      stop_step: Where it would have stopped; None: it would not have.
    """

    step: int
    value: float
    stop_step: int | None


@dataclass(frozen=True, slots=True)
class Audit:
    """The verdict on one series, and what it rests on.

    Attributes:
      finding: As `selfreg.analysis.verdict.judge` has them, on the smoothed metric.
      steps: Of each full window, where it ends.
      smoothed: float64, the mean of the last `window` values at those steps.
      shape: The smoothed series.
      samples_per_step: Completions behind one value.
      problems_per_step: Distinct problems among them.
      window: Values a mean is taken over.
      margin: A smaller drop is no collapse.
      noise_sd: Of one value, while the policy stands still.
      beta: Problems' pass rates of the policy that stands still.
      gap: Peak - end, with its null; p is of the gap in units of noise, selection accounted for.
      permutation_p: p of the same gap among the steps in random order.
      corrected_drop: The gap less the null's mean gap: a lower estimate of the true drop.
      corrected_peak: The peak less the null's expected excess: a lower estimate.
      gain: Last full window - first.
      gain_p: One-sided p of a gain.
      early_stop: What ES keeps: the peak.
      next_budget: What ES orders next: clamp(steps to the peak + 3, 8, 20).
      online: What the online rule keeps: three readings in a row more than 0.02 below the peak.
    """

    finding: Finding
    steps: np.ndarray
    smoothed: np.ndarray
    shape: Trajectory
    samples_per_step: int
    problems_per_step: int
    window: int
    margin: float
    noise_sd: float
    beta: Beta
    gap: NullTest
    permutation_p: float
    corrected_drop: float
    corrected_peak: float
    gain: float
    gain_p: float
    early_stop: Kept
    next_budget: int
    online: Kept


def audit(
    series: np.ndarray,
    samples_per_step: int,
    problems_per_step: int,
    steps: np.ndarray | None = None,
    window: int = WINDOW,
    margin: float = MARGIN,
    seed: int = 0,
) -> Audit:
    """Judge a series of pass rates: has it collapsed, or is that noise?

    Args:
      series: float [n], mean rewards in [0, 1], one a logged step; at least two windows.
      samples_per_step: Completions behind one value: those of k updates, when every k-th is
        logged as their mean.
      problems_per_step: Distinct problems among them; it divides samples_per_step.
      steps: [n], increasing; 0 .. n - 1 by default.
      window: Values to smooth over; only full windows count.
      margin: A smaller drop is no collapse; what is surely smaller is stable.
      seed: Of the simulation.

    Raises:
      ValueError: The series is too short or holds anything but rates, or the counts do not fit.
    """
    values = np.asarray(series, np.float64)
    at = np.arange(len(values)) if steps is None else np.asarray(steps)
    _check(values, at, samples_per_step, problems_per_step, window)
    beta = _fit(values, samples_per_step, problems_per_step)
    still = _still(beta, len(values), samples_per_step, problems_per_step, seed)
    smoothed, null = _windows(values, window), _windows(still, window)
    sd, null_sd = _noise(values, samples_per_step), _noise(still, samples_per_step)

    shape = trajectory(at[window - 1 :], smoothed)
    null_gap = null.max(axis=1) - null[:, -1]
    low, high = np.quantile(null_gap, (0.025, 0.975))
    gap_p = _p(shape.gap, sd, null_gap, null_sd)
    gap = NullTest(shape.gap, float(null_gap.mean()), float(low), float(high), gap_p)
    gain = float(smoothed[-1] - smoothed[0])
    gain_p = _p(gain, sd, null[:, -1] - null[:, 0], null_sd)
    corrected_peak = shape.peak - float(null.max(axis=1).mean() - beta.mean)
    # The true peak's reading is no larger than the peak: one difference's noise bounds the drop.
    most = shape.gap + float(norm.ppf(1 - LEVEL) * sd * np.sqrt(2 / window))
    corrected_drop = max(0.0, shape.gap - gap.null_mean)
    reading = Reading(len(values), samples_per_step, problems_per_step, window)
    stops = online_stop(smoothed, at[window - 1 :])
    updates = int(np.searchsorted(at, shape.peak_step)) + 1
    return Audit(
        _judge(shape.gap, corrected_drop, gap.p, most, corrected_peak, gain_p, margin),
        at[window - 1 :],
        smoothed,
        shape,
        samples_per_step,
        problems_per_step,
        window,
        margin,
        float(sd),
        beta,
        gap,
        permute(values, reading, seed=seed).gap.p,
        corrected_drop,
        corrected_peak,
        gain,
        gain_p,
        Kept(shape.peak_step, shape.peak, None),
        int(np.clip(updates + 3, 8, 20)),
        Kept(
            int(stops.kept_step),
            float(stops.kept),
            int(stops.stop_step) if bool(stops.fired) else None,
        ),
    )


def _judge(
    gap: float,
    corrected_drop: float,
    gap_p: float,
    most: float,
    corrected_peak: float,
    gain_p: float,
    margin: float,
) -> Finding:
    if gap > 0:
        if corrected_peak < margin:
            return Finding.NOTHING_TO_LOSE
        if gap_p <= LEVEL:
            return Finding.COLLAPSED if corrected_drop >= margin else Finding.DECLINED
        if most >= margin:
            return Finding.NOISE
    if gain_p <= LEVEL:
        return Finding.IMPROVED
    return Finding.STABLE if gap > 0 else Finding.NO_DROP


def _check(values: np.ndarray, at: np.ndarray, samples: int, problems: int, window: int) -> None:
    if values.ndim != 1 or at.shape != values.shape:
        raise ValueError(f"needs one value a step, not {values.shape} at {at.shape}")
    if len(values) and not (np.isfinite(values).all() and 0 <= values.min() <= values.max() <= 1):
        raise ValueError(
            f"the metric goes from {np.min(values):g} to {np.max(values):g}: it must be a rate in "
            "[0, 1]; name the rewards of a fail and of a pass with --low and --high"
        )
    if not 1 <= problems <= samples or samples % problems:
        raise ValueError(
            f"samples_per_step={samples}, problems_per_step={problems}: the same number of "
            "completions of each problem is needed"
        )
    if window < 1 or len(values) < 2 * window:
        raise ValueError(
            f"{len(values)} values and window={window}: two windows of at least 1 are needed"
        )


def _windows(values: np.ndarray, window: int) -> np.ndarray:
    """Means of full windows: [..., n] -> [..., n - window + 1]."""
    return rolling_mean(values, window)[..., window - 1 :]


def _noise(values: np.ndarray, samples: int) -> np.ndarray:
    """Standard deviation of a value from its neighbours (von Neumann's), binomial at the least."""
    mean = values.mean(axis=-1)
    neighbours = (np.diff(values, axis=-1) ** 2).mean(axis=-1) / 2
    return np.sqrt(np.maximum(neighbours, mean * (1 - mean) / samples))


def _fit(values: np.ndarray, samples: int, problems: int) -> Beta:
    """The pass rates whose step means have the mean and the noise of these.

    With G = samples / problems,

        noise^2 = m (1 - m) / samples * (1 + (G - 1) / (concentration + 1)).
    """
    mean, group = float(values.mean()), samples // problems
    low, high = _CONCENTRATIONS
    binomial = mean * (1 - mean) / samples
    if binomial == 0 or group == 1:
        return Beta(mean, high)
    rho = (float(_noise(values, samples)) ** 2 / binomial - 1) / (group - 1)
    return Beta(mean, float(1 / np.clip(rho, 1 / (high + 1), 1 / (low + 1)) - 1))


def _still(beta: Beta, steps: int, samples: int, problems: int, seed: int) -> np.ndarray:
    """float64 [SIMULATED, steps]: step means of a policy that stands still."""
    group = samples // problems
    if problems * steps <= _EXACT_DRAWS:
        return readings(beta, Reading(steps, group, problems), SIMULATED, seed)
    rho = (group - 1) / (beta.concentration + 1)
    sd = np.sqrt(beta.mean * (1 - beta.mean) / samples * (1 + rho))
    rng = np.random.default_rng(seed)
    return np.clip(rng.normal(beta.mean, sd, (SIMULATED, steps)), 0, 1)


def _p(observed: float, sd: np.ndarray, null: np.ndarray, null_sd: np.ndarray) -> float:
    """One-sided p of observed / sd among null / null_sd; without noise, whether it is above 0."""
    if sd == 0:
        return float(observed <= 0)
    ratio = np.divide(null, null_sd, out=np.zeros_like(null), where=null_sd > 0)
    return float((1 + (~exceeds(observed / sd, ratio)).sum()) / (1 + len(null)))
