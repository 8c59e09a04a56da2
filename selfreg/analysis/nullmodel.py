"""Null models: what a metric shows when the policy does not change at all.

A policy that never learns solves each problem at a rate of its own. One step reads it through G
samples of P problems drawn at random, and a rolling mean smooths that. The peak of such a series is
a maximum of noise, so that it lies above the end; how far above, this module says. Three nulls:
`compare` simulates the stationary policy, `permute` shuffles the campaign's own steps, `beside`
takes other campaigns that are known not to learn (A/A runs, at a learning rate of about 0).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from selfreg.analysis.trajectory import GAP_LEVELS, WINDOW, Shapes, exceeds, rolling_mean, shapes

CAMPAIGNS = 3_000
_CONCENTRATIONS = (1e-3, 1e3)


@dataclass(frozen=True, slots=True)
class Beta:
    """Pass rates of problems: Beta(mean * concentration, (1 - mean) * concentration).

    Attributes:
      mean: In [0, 1]; at 0 and 1 every problem has that rate.
      concentration: Above 0; the larger, the more alike the problems.
    """

    mean: float
    concentration: float


@dataclass(frozen=True, slots=True)
class Reading:
    """How a metric reads a policy.

    Attributes:
      steps: Readings in a campaign.
      samples: G, completions a problem.
      problems: P, problems a step.
      window: Of the rolling mean, in steps.
    """

    steps: int
    samples: int
    problems: int = 1
    window: int = WINDOW


@dataclass(frozen=True, slots=True)
class NullTest:
    """An observed statistic among those of the stationary null.

    Attributes:
      observed: What the campaign shows.
      null_mean: Mean over the simulated campaigns.
      null_low: Their 2.5% quantile.
      null_high: Their 97.5% quantile.
      p: (1 + number of null values at least as extreme) / (1 + number of them), one-sided: small
        for an end or a ratio lower, and for anything else higher, than the null's.
    """

    observed: float
    null_mean: float
    null_low: float
    null_high: float
    p: float


@dataclass(frozen=True, slots=True)
class NullComparison:
    """One campaign's per-step metric against a null.

    Attributes:
      kind: "stationary", "permutation" or "A/A".
      beta: The pass rates of the stationary policy; None for the other kinds.
      reading: How the metric reads a policy.
      simulated: Campaigns of the null.
      peak: Test of the largest rolling mean.
      end: Test of the last rolling mean, small p for a low one.
      gap: Test of peak - end.
      ratio: Test of end / peak, small p for a low one. This and the next two are among the null
        campaigns in which they are defined; None where the campaign's own is not.
      phase_transition: Test of the phase-transition score.
      latency_steps: Test of the steps left after the onset, small p for a long time.
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
    """Beta-binomial moments of passed counts.

    With m and v the mean and variance of passed / G over groups,

        v = m (1 - m) / G * (1 + (G - 1) rho),    rho = 1 / (concentration + 1).

    Counts of one campaign are taken as those of one policy. If the policy really rose and fell, its
    groups are more spread than any one policy's, the fit inherits the spread, and the null shows
    larger gaps than it should: the test is conservative.

    Args:
      passed: int [groups], completions that passed, of each problem drawn.
      samples: G, completions a group.

    Returns:
      The fit, its concentration kept within [0.001, 1000]. Groups no more spread than binomial
      ones, and groups of a single completion, which show no spread, give 1000.

    Raises:
      ValueError: No groups, or a count outside [0, G].
    """
    passed = np.asarray(passed)
    if not len(passed) or passed.min() < 0 or passed.max() > samples:
        raise ValueError(f"needs counts in [0, {samples}], not {passed.tolist()[:20]}")
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
    """The most likely Beta-binomial for passed counts; `fit_beta` is faster and as good for most.

    Args:
      passed: int [groups], completions that passed, of each problem drawn.
      samples: G, completions a group.

    Raises:
      ValueError: No groups, or a count outside [0, G].
    """
    moments = fit_beta(passed, samples)
    if moments.mean in (0.0, 1.0) or samples == 1:
        return moments
    # Only now: SciPy loads half a second, which reading other people's logs need not wait for.
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
    """The metric of campaigns in which the policy does not change, before the rolling mean.

    Args:
      policy: The problems' pass rates: a distribution, from which every problem drawn is a new one,
        or float [problems], rates that were measured, drawn from with replacement.
      reading: How the metric reads them.
      campaigns: C.
      seed: Of the generator.

    Returns:
      float64 [C, steps].
    """
    rng = np.random.default_rng(seed)
    size = (campaigns, reading.steps)
    passed = np.zeros(size, np.int64)
    for _ in range(reading.problems):  # one problem at a time: P does not enter the memory
        passed += rng.binomial(reading.samples, _rates(rng, policy, size))
    return passed / (reading.samples * reading.problems)


def simulate(
    policy: Beta | np.ndarray, reading: Reading, campaigns: int = CAMPAIGNS, seed: int = 0
) -> Shapes:
    """The shapes of such campaigns through the reading's rolling mean; see `readings`."""
    values = readings(policy, reading, campaigns, seed)
    return shapes(rolling_mean(values, reading.window))


def selection_bias(
    policy: Beta | np.ndarray, reading: Reading, campaigns: int = 1, draws: int = CAMPAIGNS
) -> float:
    """How far the largest reading lies above the true pass rate when nothing changes.

    What to take off a peak, or off a chain's hindsight oracle, where no report panel measured it
    anew. It is exact for a stationary policy; a policy that really rose has fewer readings that
    compete, so that this takes off too much: the corrected peak is a lower estimate.

    Args:
      policy: As in `readings`.
      reading: How the metric reads it.
      campaigns: How many campaigns the maximum was taken over.
      draws: Simulations.
    """
    values = readings(policy, reading, draws * campaigns)
    largest = rolling_mean(values, reading.window).reshape(draws, -1).max(axis=1)
    mean = policy.mean if isinstance(policy, Beta) else float(np.mean(policy))
    return float(largest.mean() - mean)


def expected_maximum(count: int) -> float:
    """The mean of the largest of `count` standard normal numbers.

    Times a panel's standard error of measurement it is the bias of a peak selected among as many
    independent readings of one policy.
    """
    if count < 1:
        raise ValueError(f"count={count}: a maximum needs at least one value")
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
    """A campaign's pass_rate against the stationary null fitted to its own groups.

    The fit is plugged in as if it were known.

    Args:
      pass_rate: float [reading.steps], the metric as measured, before the rolling mean.
      passed: int [groups], completions that passed in each training group of the campaign.
      reading: How the metric reads a policy.
      campaigns: How many to simulate.
      seed: Of the simulation.

    Raises:
      ValueError: The lengths do not fit together, or the counts are impossible.
    """
    _check_length(pass_rate, reading)
    beta = fit_beta(passed, reading.samples)
    null = simulate(beta, reading, campaigns, seed)
    return _compare("stationary", beta, pass_rate, reading, null)


def permute(
    pass_rate: np.ndarray, reading: Reading, campaigns: int = CAMPAIGNS, seed: int = 0
) -> NullComparison:
    """A campaign's pass_rate against its own steps in random order.

    Under a policy that does not change, readings of problems drawn anew are exchangeable, so that
    this test is exact. It knows nothing of the number of samples. The readings of a collapse are
    spread wide in any order, which is why it sees a small one less well than `compare` does.

    Args:
      pass_rate: float [reading.steps], the metric as measured, before the rolling mean.
      reading: Its length and window count; the samples do not.
      campaigns: How many orders to draw.
      seed: Of the draws.

    Raises:
      ValueError: The lengths do not fit together.
    """
    _check_length(pass_rate, reading)
    rng = np.random.default_rng(seed)
    values = np.tile(np.asarray(pass_rate, np.float64), (campaigns, 1))
    null = shapes(rolling_mean(rng.permuted(values, axis=1), reading.window))
    return _compare("permutation", None, pass_rate, reading, null)


def beside(pass_rate: np.ndarray, still: Sequence[np.ndarray], reading: Reading) -> NullComparison:
    """A campaign's pass_rate against A/A campaigns: real ones that do not learn.

    They hold every source of noise there is, the grader's and the sampler's too. With n of them p
    is never below 1 / (1 + n).

    Args:
      pass_rate: float [reading.steps], the metric as measured, before the rolling mean.
      still: The same of campaigns at a learning rate of about 0, read in the same way.
      reading: How the metric reads a policy.

    Raises:
      ValueError: There is no such campaign, or one of another length.
    """
    for series in (pass_rate, *still):
        _check_length(series, reading)
    if not len(still):
        raise ValueError("needs at least one campaign that does not learn")
    null = shapes(rolling_mean(np.array(still, np.float64), reading.window))
    return _compare("A/A", None, pass_rate, reading, null)


def null_test(observed: float, null: np.ndarray, low_is_extreme: bool = False) -> NullTest:
    """An observed statistic among a null's.

    Args:
      observed: What was measured.
      null: float [n], the null's, all defined.
      low_is_extreme: Whether small values, not large ones, speak of a collapse.
    """
    extreme = ~exceeds(null, observed) if low_is_extreme else ~exceeds(observed, null)
    low, high = np.quantile(null, (0.025, 0.975))
    p = (1 + extreme.sum()) / (1 + len(null))
    return NullTest(float(observed), float(null.mean()), float(low), float(high), float(p))


def _check_length(pass_rate: np.ndarray, reading: Reading) -> None:
    if len(pass_rate) != reading.steps:
        raise ValueError(f"{len(pass_rate)} values for a reading of {reading.steps} steps")


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
