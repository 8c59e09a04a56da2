"""Power analysis: how many seeds or panel problems are needed to detect an effect."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.stats import nct
from scipy.stats import t as student

from selfreg.analysis.nullmodel import Beta

LEVEL, POWER = 0.05, 0.8
_MOST = 10_000_000


class Spread(NamedTuple):
    """Mean and spread of a problem's measured difference between two policies.

    Attributes:
      mean: Mean of the difference, before - after.
      sd: Standard deviation of one problem's measured difference, over problems and samples.
    """

    mean: float
    sd: float


def power_of(effect: float, sd: float, n: int, level: float = LEVEL, sides: int = 2) -> float:
    """Return the power of a t test of n differences against 0, by the noncentral t distribution.

    Args:
      effect: True mean of the differences.
      sd: Standard deviation of the differences, above 0.
      n: Number of differences, at least 2.
      level: Significance level of the test.
      sides: 1 for an upper-tailed test, 2 for a two-sided test.
    """
    critical = student.ppf(1 - level / sides, n - 1)
    shift = effect * np.sqrt(n) / sd
    above = nct.sf(critical, n - 1, shift)
    return float(above + nct.cdf(-critical, n - 1, shift) if sides == 2 else above)


def minimal_detectable_effect(
    sd: float, n: int, power: float = POWER, level: float = LEVEL, sides: int = 2
) -> float:
    """Return the smallest effect that n differences with this sd detect with the given power.

    Args:
      sd: Standard deviation of the differences, above 0.
      n: Number of differences, at least 2.
      power: Wanted power.
      level: Significance level of the test.
      sides: 1 for an upper-tailed test, 2 for a two-sided test.

    Raises:
      ValueError: n is below 2, sd is not above 0, or not 0 < level < power < 1.
    """
    _check(sd, power, level)
    if n < 2:
        raise ValueError(f"n={n} must be at least 2: one difference does not show its spread")

    def missing(effect: float) -> float:
        return power_of(effect, sd, n, level, sides) - power

    high = sd
    while missing(high) < 0:
        high *= 2
    return float(brentq(missing, 0.0, high, xtol=1e-9 * sd))


def seeds_needed(
    effect: float, sd: float, power: float = POWER, level: float = LEVEL, sides: int = 2
) -> int:
    """Return the smallest number of paired seeds that detects an effect with the given power.

    Args:
      effect: True mean difference, in the unit of sd; its sign does not matter.
      sd: Standard deviation of the differences between seeds, above 0.
      power: Wanted power.
      level: Significance level of the test.
      sides: 1 for an upper-tailed test, 2 for a two-sided test.

    Raises:
      ValueError: The effect is 0, or so small that ten million seeds do not show it.
    """
    _check(sd, power, level)
    return _least(lambda n: power_of(abs(effect), sd, n, level, sides) >= power, effect)


def spread_of_drop(drop: float, rates: Beta, samples: int) -> Spread:
    """Return the spread of a problem's difference if all rates fall by the same share.

    A problem with rate p before has rate q = p (1 - drop / mean) after. Each rate is measured with
    n samples:

        Var = (E[p (1 - p)] + E[q (1 - q)]) / n + (drop / mean)^2 Var(p)

    Args:
      drop: Drop of the mean rate, at most the mean itself.
      rates: Distribution of the pass rates before the drop.
      samples: n, completions per problem and policy.

    Raises:
      ValueError: The drop is negative or larger than the mean, or samples is below 1.
    """
    if not 0 <= drop <= rates.mean or samples < 1:
        raise ValueError(
            f"drop={drop}, samples={samples}: drop must lie in [0, {rates.mean}], the mean rate, "
            "and samples must be at least 1"
        )
    share = drop / rates.mean if rates.mean else 0.0
    variance = rates.mean * (1 - rates.mean) / (rates.concentration + 1)
    square = variance + rates.mean**2
    before = rates.mean - square
    after = rates.mean * (1 - share) - square * (1 - share) ** 2
    return Spread(drop, float(np.sqrt((before + after) / samples + share**2 * variance)))


def power_of_panel(drop: float, problems: int, samples: int, rates: Beta) -> float:
    """Return the probability that `verdict.judge` finds a drop beyond noise on a report panel.

    Args:
      drop: True drop of the mean pass rate.
      problems: Problems in the panel.
      samples: Completions per problem and policy.
      rates: Distribution of the pass rates before the drop.
    """
    spread = spread_of_drop(drop, rates, samples)
    return power_of(spread.mean, spread.sd, problems, sides=1)


def panel_size(drop: float, samples: int, rates: Beta, power: float = POWER) -> int:
    """Return how many problems a report panel needs to detect a drop with the given power.

    Args:
      drop: True drop of the mean pass rate, such as 0.05 for five points.
      samples: Completions per problem and policy.
      rates: Distribution of the pass rates before the drop, for example from nullmodel.fit_beta.
      power: Probability that `verdict.judge` finds the drop beyond noise.

    Raises:
      ValueError: The drop is 0 or larger than the mean.
    """
    spread = spread_of_drop(drop, rates, samples)
    if spread.sd == 0:  # without variance, two problems are enough
        return 2
    return seeds_needed(spread.mean, spread.sd, power, sides=1)


def _least(enough: Callable[[int], bool], effect: float) -> int:
    """Return the smallest n >= 2 that is enough, given that every larger n is enough too."""
    high = 2
    while not enough(high):
        high *= 2
        if high > _MOST:
            raise ValueError(f"an effect of {effect} is too small: {_MOST:,} do not show it")
    low = high // 2
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _check(sd: float, power: float, level: float) -> None:
    if not (sd > 0 and 0 < level < power < 1):
        raise ValueError(
            f"sd={sd}, power={power}, level={level}: must satisfy sd > 0 and 0 < level < power < 1"
        )
