"""The stationary null: what the per-step metric shows when the policy does not change at all.

A policy that never learns solves each problem at a rate of its own. One step reads it through G
samples of P problems drawn at random, and a rolling mean smooths that. The peak of such a series is
a maximum of noise, so that it lies above the end; how far above, this module says.
"""

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
      p: (1 + number of simulated values at least as extreme) / (1 + number simulated), one-sided:
        small for an end lower, and for anything else higher, than the null's.
    """

    observed: float
    null_mean: float
    null_low: float
    null_high: float
    p: float


@dataclass(frozen=True, slots=True)
class NullComparison:
    """One campaign's per-step metric against a stationary policy of the same pass rates.

    Attributes:
      beta: The fitted pass rates.
      reading: How the metric reads them.
      simulated: Campaigns simulated.
      peak: Test of the largest rolling mean.
      end: Test of the last rolling mean, small p for a low one.
      gap: Test of peak - end.
      phase_transition: Test of the phase-transition score, among the simulated campaigns that have
        one; None where the campaign has none.
      gap_rates: Share of null campaigns whose gap exceeds 0.2, 0.3 and 0.5.
    """

    beta: Beta
    reading: Reading
    simulated: int
    peak: NullTest
    end: NullTest
    gap: NullTest
    phase_transition: NullTest | None
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


def simulate(beta: Beta, reading: Reading, campaigns: int = CAMPAIGNS, seed: int = 0) -> Shapes:
    """The shapes of campaigns in which the policy does not change.

    Every problem drawn is a new one, with a rate of its own.

    Args:
      beta: The problems' pass rates.
      reading: How the metric reads them.
      campaigns: C.
      seed: Of the generator.
    """
    rng = np.random.default_rng(seed)
    size = (campaigns, reading.steps)
    passed = np.zeros(size, np.int64)
    for _ in range(reading.problems):  # one problem at a time: P does not enter the memory
        passed += rng.binomial(reading.samples, _rates(rng, beta, size))
    rate = passed / (reading.samples * reading.problems)
    return shapes(rolling_mean(rate, reading.window))


def compare(
    pass_rate: np.ndarray,
    passed: np.ndarray,
    reading: Reading,
    campaigns: int = CAMPAIGNS,
    seed: int = 0,
) -> NullComparison:
    """A campaign's pass_rate against the null fitted to its own groups.

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
    if len(pass_rate) != reading.steps:
        raise ValueError(f"{len(pass_rate)} values for a reading of {reading.steps} steps")
    beta = fit_beta(passed, reading.samples)
    null = simulate(beta, reading, campaigns, seed)
    seen = shapes(rolling_mean(pass_rate, reading.window)[None])
    scores = null.phase_transition[~np.isnan(null.phase_transition)]
    defined = len(scores) and not np.isnan(seen.phase_transition[0])
    return NullComparison(
        beta,
        reading,
        campaigns,
        peak=_test(seen.peak[0], null.peak),
        end=_test(seen.end[0], null.end, low_is_extreme=True),
        gap=_test(seen.gap[0], null.gap),
        phase_transition=_test(seen.phase_transition[0], scores) if defined else None,
        gap_rates=tuple(float(exceeds(null.gap, level).mean()) for level in GAP_LEVELS),
    )


def _rates(rng: np.random.Generator, beta: Beta, size: tuple[int, int]) -> np.ndarray:
    if beta.mean in (0.0, 1.0):
        return np.full(size, beta.mean)
    a, b = beta.mean * beta.concentration, (1 - beta.mean) * beta.concentration
    return rng.beta(a, b, size)


def _test(observed: float, null: np.ndarray, low_is_extreme: bool = False) -> NullTest:
    extreme = ~exceeds(null, observed) if low_is_extreme else ~exceeds(observed, null)
    low, high = np.quantile(null, (0.025, 0.975))
    p = (1 + extreme.sum()) / (1 + len(null))
    return NullTest(float(observed), float(null.mean()), float(low), float(high), float(p))
