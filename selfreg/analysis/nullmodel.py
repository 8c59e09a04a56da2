"""Null models: the behaviour of a metric when the policy does not change.

A policy that never learns has a fixed pass rate on each problem. One step estimates the mean rate
from G samples of each of P randomly drawn problems, and a rolling mean smooths these estimates. The
peak of the smoothed series is a maximum of noisy values, so it lies above the end even without any
collapse. This module computes by how much, in three ways: `compare` simulates a stationary policy,
`permute` shuffles the campaign's own steps, and `beside` uses other campaigns that are known not to
learn (A/A runs at a learning rate of about 0).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from selfreg.analysis.trajectory import GAP_LEVELS, WINDOW, Shapes, exceeds, rolling_mean, shapes

CAMPAIGNS = 3_000
_CONCENTRATIONS = (1e-3, 1e3)


@dataclass(frozen=True, slots=True)
class Beta:
    """Distribution of pass rates over problems: Beta(mean * c, (1 - mean) * c), c = concentration.

    Attributes:
      mean: Mean rate, in [0, 1]. At 0 or 1 every problem has that rate.
      concentration: Positive; a larger value makes the problems more alike.
    """

    mean: float
    concentration: float


@dataclass(frozen=True, slots=True)
class Reading:
    """The sampling design of the metric.

    Attributes:
      steps: Steps in a campaign, one reading each.
      samples: G, completions per problem.
      problems: P, problems per step.
      window: Length of the rolling mean, in steps.
    """

    steps: int
    samples: int
    problems: int = 1
    window: int = WINDOW


@dataclass(frozen=True, slots=True)
class NullTest:
    """An observed statistic compared with its distribution under a null.

    Attributes:
      observed: Value of the campaign.
      null_mean: Mean over the null campaigns.
      null_low: 2.5% quantile over the null campaigns.
      null_high: 97.5% quantile over the null campaigns.
      p: One-sided p: (1 + null values at least as extreme) / (1 + null values). Low values are
        extreme for an end or a ratio, high values for every other statistic.
    """

    observed: float
    null_mean: float
    null_low: float
    null_high: float
    p: float


@dataclass(frozen=True, slots=True)
class NullComparison:
    """One campaign's per-step metric compared with a null.

    The tests of ratio, phase_transition and latency_steps use the null campaigns in which the
    statistic is defined. They are None if it is undefined in the campaign itself.

    Attributes:
      kind: "stationary", "permutation" or "A/A".
      beta: Pass rates of the stationary policy; None for the other kinds.
      reading: How the metric samples a policy.
      simulated: Number of null campaigns.
      peak: Test of the largest rolling mean.
      end: Test of the last rolling mean; p is small for a low end.
      gap: Test of peak - end.
      ratio: Test of end / peak; p is small for a low ratio.
      phase_transition: Test of the phase-transition score.
      latency_steps: Test of the steps left after the onset; p is small for many steps.
      collapse_rate: Share of null campaigns with end / peak < 0.3.
      gap_rates: Share of null campaigns whose gap exceeds 0.2, 0.3 and 0.5.
    """

    kind: str
    beta: Beta | None
    reading: Reading
    simulated: int
    peak: NullTest
    end: NullTest
    gap: NullTest
    ratio: NullTest | None
    phase_transition: NullTest | None
    latency_steps: NullTest | None
    collapse_rate: float
    gap_rates: tuple[float, ...]


def fit_beta(passed: np.ndarray, samples: int) -> Beta:
    """Fit a beta-binomial distribution to passed counts by the method of moments.

    With m and v the mean and variance of passed / G over groups,

        v = m (1 - m) / G * (1 + (G - 1) rho),    rho = 1 / (concentration + 1).

    The fit assumes that one policy made all counts. If the policy really rose and fell, its groups
    vary more than those of any single policy. The fit inherits this spread and the null shows gaps
    that are too large, so the test is conservative.

    Args:
      passed: int [groups], passed completions of each drawn problem.
      samples: G, completions per group.

    Returns:
      The fit, with its concentration clipped to [0.001, 1000]. It is 1000 if the groups vary no
      more than binomial ones, or have a single completion, which shows no spread.

    Raises:
      ValueError: There are no groups, or a count lies outside [0, G].
    """
    passed = np.asarray(passed)
    if not len(passed) or passed.min() < 0 or passed.max() > samples:
        raise ValueError(f"passed must hold counts in [0, {samples}], not {passed.tolist()[:20]}")
    rates = passed / samples
    mean = float(rates.mean())
    low, high = _CONCENTRATIONS
    binomial = mean * (1 - mean) / samples
    if binomial == 0 or samples == 1 or len(rates) == 1:
        return Beta(mean, high)
    rho = (rates.var(ddof=1) / binomial - 1) / (samples - 1)
    rho = np.clip(rho, 1 / (high + 1), 1 / (low + 1))
    return Beta(mean, float(1 / rho - 1))


def fit_beta_ml(passed: np.ndarray, samples: int) -> Beta:
    """Fit a beta-binomial distribution to passed counts by maximum likelihood.

    `fit_beta` is faster, and as good for most purposes.

    Args:
      passed: int [groups], passed completions of each drawn problem.
      samples: G, completions per group.

    Raises:
      ValueError: There are no groups, or a count lies outside [0, G].
    """
    moments = fit_beta(passed, samples)
    if moments.mean in (0.0, 1.0) or samples == 1:
        return moments
    # Imported late: SciPy takes half a second to load, and the audit of logs does not need it.
    from scipy.optimize import minimize
    from scipy.stats import betabinom

    counts, times = np.unique(passed, return_counts=True)

    def surprise(at: np.ndarray) -> float:
        a, b = np.exp(at)
        return -float((times * betabinom.logpmf(counts, samples, a, b)).sum())

    low, high = np.log(_CONCENTRATIONS)
    shares = np.array([moments.mean, 1 - moments.mean])
    start = np.log(shares * moments.concentration)
    bounds = [(2 * low, high)] * 2  # of a and b, whose sum is the concentration
    found = np.exp(minimize(surprise, np.clip(start, 2 * low, high), bounds=bounds).x)
    return Beta(float(found[0] / found.sum()), float(np.clip(found.sum(), *_CONCENTRATIONS)))


def readings(
    policy: Beta | np.ndarray, reading: Reading, campaigns: int = CAMPAIGNS, seed: int = 0
) -> np.ndarray:
    """Simulate the metric of campaigns in which the policy does not change.

    The rolling mean is not applied; see `simulate`.

    Args:
      policy: Pass rates of the problems. With a Beta, every drawn problem is a new one. With
        measured rates, float [problems], problems are drawn with replacement.
      reading: How the metric samples the policy.
      campaigns: C, the number of campaigns.
      seed: Seed of the generator.

    Returns:
      float64 [C, steps].
    """
    rng = np.random.default_rng(seed)
    size = (campaigns, reading.steps)
    passed = np.zeros(size, np.int64)
    for _ in range(reading.problems):  # one problem at a time, so that memory does not grow with P
        passed += rng.binomial(reading.samples, _rates(rng, policy, size))
    return passed / (reading.samples * reading.problems)


def simulate(
    policy: Beta | np.ndarray, reading: Reading, campaigns: int = CAMPAIGNS, seed: int = 0
) -> Shapes:
    """Return the shapes of simulated campaigns after the rolling mean; see `readings`."""
    values = readings(policy, reading, campaigns, seed)
    return shapes(rolling_mean(values, reading.window))


def selection_bias(
    policy: Beta | np.ndarray, reading: Reading, campaigns: int = 1, draws: int = CAMPAIGNS
) -> float:
    """Return how far the largest reading lies above the true pass rate of a stationary policy.

    Subtract this bias from a peak, or from a chain's hindsight oracle, that no report panel
    measured again. The correction is exact for a stationary policy. After a real rise, fewer
    readings compete for the maximum, so the correction is too large and the corrected peak is a
    low estimate.

    Args:
      policy: As in `readings`.
      reading: How the metric samples the policy.
      campaigns: Number of campaigns over which the maximum was taken.
      draws: Number of simulations.
    """
    values = readings(policy, reading, draws * campaigns)
    largest = rolling_mean(values, reading.window).reshape(draws, -1).max(axis=1)
    mean = policy.mean if isinstance(policy, Beta) else float(np.mean(policy))
    return float(largest.mean() - mean)


def expected_maximum(count: int) -> float:
    """Return the expected maximum of `count` standard normal numbers.

    Multiplied by a panel's standard error of measurement, it is the bias of a peak selected among
    that many independent readings of one policy.
    """
    if count < 1:
        raise ValueError(f"count={count} must be at least 1")
    from scipy.integrate import quad
    from scipy.stats import norm

    def density(x: float) -> float:
        return float(count * x * norm.pdf(x) * norm.cdf(x) ** (count - 1))

    return float(quad(density, -12, 12)[0])


def compare(
    pass_rate: np.ndarray,
    passed: np.ndarray,
    reading: Reading,
    campaigns: int = CAMPAIGNS,
    seed: int = 0,
) -> NullComparison:
    """Compare a campaign's pass_rate with a stationary null fitted to its own groups.

    The fitted parameters are treated as known.

    Args:
      pass_rate: float [reading.steps], the measured metric before the rolling mean.
      passed: int [groups], passed completions of each training group of the campaign.
      reading: How the metric samples a policy.
      campaigns: Number of campaigns to simulate.
      seed: Seed of the simulation.

    Raises:
      ValueError: The lengths differ, or the counts are impossible.
    """
    _check_length(pass_rate, reading)
    beta = fit_beta(passed, reading.samples)
    null = simulate(beta, reading, campaigns, seed)
    return _compare("stationary", beta, pass_rate, reading, null)


def permute(
    pass_rate: np.ndarray, reading: Reading, campaigns: int = CAMPAIGNS, seed: int = 0
) -> NullComparison:
    """Compare a campaign's pass_rate with its own steps in random order.

    If the policy does not change and problems are drawn at random, the readings are exchangeable,
    so this test is exact. It does not use the number of samples. The readings of a collapse vary
    widely in any order, so the test has less power against a small collapse than `compare`.

    Args:
      pass_rate: float [reading.steps], the measured metric before the rolling mean.
      reading: Only its steps and window are used.
      campaigns: Number of orders to draw.
      seed: Seed of the draws.

    Raises:
      ValueError: The lengths differ.
    """
    _check_length(pass_rate, reading)
    rng = np.random.default_rng(seed)
    values = np.tile(np.asarray(pass_rate, np.float64), (campaigns, 1))
    null = shapes(rolling_mean(rng.permuted(values, axis=1), reading.window))
    return _compare("permutation", None, pass_rate, reading, null)


def beside(pass_rate: np.ndarray, still: Sequence[np.ndarray], reading: Reading) -> NullComparison:
    """Compare a campaign's pass_rate with A/A campaigns: real campaigns that do not learn.

    A/A campaigns contain every source of noise, including the grader and the sampler. With n of
    them, p is never below 1 / (1 + n).

    Args:
      pass_rate: float [reading.steps], the measured metric before the rolling mean.
      still: The same metric of campaigns at a learning rate of about 0, each of the same length.
      reading: How the metric samples a policy.

    Raises:
      ValueError: `still` is empty, or the lengths differ.
    """
    for series in (pass_rate, *still):
        _check_length(series, reading)
    if not len(still):
        raise ValueError("still must hold at least one campaign that does not learn")
    null = shapes(rolling_mean(np.array(still, np.float64), reading.window))
    return _compare("A/A", None, pass_rate, reading, null)


def null_test(observed: float, null: np.ndarray, low_is_extreme: bool = False) -> NullTest:
    """Compare an observed statistic with its values under a null.

    Args:
      observed: The measured value.
      null: float [n], values under the null, without NaN.
      low_is_extreme: Whether small values, rather than large ones, indicate a collapse.
    """
    extreme = ~exceeds(null, observed) if low_is_extreme else ~exceeds(observed, null)
    low, high = np.quantile(null, (0.025, 0.975))
    p = (1 + extreme.sum()) / (1 + len(null))
    return NullTest(float(observed), float(null.mean()), float(low), float(high), float(p))


def _check_length(pass_rate: np.ndarray, reading: Reading) -> None:
    if len(pass_rate) != reading.steps:
        raise ValueError(
            f"pass_rate has {len(pass_rate)} values, not reading.steps={reading.steps}"
        )


def _compare(
    kind: str, beta: Beta | None, pass_rate: np.ndarray, reading: Reading, null: Shapes
) -> NullComparison:
    seen = shapes(rolling_mean(pass_rate, reading.window))

    def test(name: str, low_is_extreme: bool = False) -> NullTest | None:
        observed, values = getattr(seen, name), getattr(null, name)
        values = values[~np.isnan(values)]
        if np.isnan(observed) or not len(values):
            return None
        return null_test(float(observed), values, low_is_extreme)

    return NullComparison(
        kind,
        beta,
        reading,
        len(null.peak),
        peak=null_test(float(seen.peak), null.peak),
        end=null_test(float(seen.end), null.end, low_is_extreme=True),
        gap=null_test(float(seen.gap), null.gap),
        ratio=test("ratio", low_is_extreme=True),
        phase_transition=test("phase_transition"),
        latency_steps=test("latency_steps"),
        collapse_rate=float(null.collapsed.mean()),
        gap_rates=tuple(float(null.gap_above(level).mean()) for level in GAP_LEVELS),
    )


def _rates(
    rng: np.random.Generator, policy: Beta | np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    if not isinstance(policy, Beta):
        return rng.choice(np.asarray(policy, np.float64), size)
    if policy.mean in (0.0, 1.0):
        return np.full(size, policy.mean)
    a, b = policy.mean * policy.concentration, (1 - policy.mean) * policy.concentration
    return rng.beta(a, b, size)
