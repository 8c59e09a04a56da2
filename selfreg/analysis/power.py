"""How much it takes to see an effect: seeds of an experiment, problems of a panel."""

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
    """How a problem's difference between two policies varies.

    Attributes:
      mean: Of the difference, before - after.
      sd: Of one problem's measured difference, over problems and samples.
    """

    mean: float
    sd: float


def power_of(effect: float, sd: float, n: int, level: float = LEVEL, sides: int = 2) -> float:
    """The chance that a t test of n differences rejects 0, by the noncentral t distribution.

    Args:
      effect: The true mean of the differences.
      sd: Their standard deviation, above 0.
      n: How many, at least 2.
      level: Of the test.
      sides: 1 for a test that looks upwards alone, 2 for one that looks both ways.
    """
    critical = student.ppf(1 - level / sides, n - 1)
    shift = effect * np.sqrt(n) / sd
    above = nct.sf(critical, n - 1, shift)
    return float(above + nct.cdf(-critical, n - 1, shift) if sides == 2 else above)


def minimal_detectable_effect(
    sd: float, n: int, power: float = POWER, level: float = LEVEL, sides: int = 2
) -> float:
    """The effect that n differences of this sd show with the wanted power.

    Raises:
      ValueError: n is below 2, sd is not above 0, or a rate is impossible.
    """
    _check(sd, power, level)
    if n < 2:
        raise ValueError(f"n={n}: an effect and its spread need at least 2 differences")

    def missing(effect: float) -> float:
        return power_of(effect, sd, n, level, sides) - power

    high = sd
    while missing(high) < 0:
        high *= 2
    return float(brentq(missing, 0.0, high, xtol=1e-9 * sd))


def seeds_needed(
    effect: float, sd: float, power: float = POWER, level: float = LEVEL, sides: int = 2
) -> int:
    """The least number of paired seeds that shows an effect with the wanted power.

    Args:
      effect: The true mean difference, in the unit of sd; its sign does not matter.
      sd: Standard deviation of the differences between seeds.
      power: The chance to see it.
      level: Of the test.
      sides: 1 or 2.

    Raises:
      ValueError: The effect is 0, or too small for ten million.
    """
    _check(sd, power, level)
    return _least(lambda n: power_of(abs(effect), sd, n, level, sides) >= power, effect)


def spread_of_drop(drop: float, rates: Beta, samples: int) -> Spread:
    """A problem's difference when all problems lose the same share of their pass rate.

    A problem with rate p before has p (1 - drop / mean) after; each rate is measured by n samples:

        Var = (E[p (1 - p)] + E[q (1 - q)]) / n + (drop / mean)^2 Var(p),   q = p (1 - drop / mean)

    Args:
      drop: Of the mean, at most the mean itself.
      rates: The pass rates before.
      samples: n, completions a problem and policy.

    Raises:
      ValueError: The drop is larger than the mean, or there is no sample.
    """
    if not 0 <= drop <= rates.mean or samples < 1:
        raise ValueError(
            f"drop={drop}, samples={samples}: a drop lies in [0, the mean rate {rates.mean}], and "
            "a rate needs at least 1 sample"
        )
    share = drop / rates.mean if rates.mean else 0.0
    variance = rates.mean * (1 - rates.mean) / (rates.concentration + 1)
    square = variance + rates.mean**2
    before = rates.mean - square
    after = rates.mean * (1 - share) - square * (1 - share) ** 2
    return Spread(drop, float(np.sqrt((before + after) / samples + share**2 * variance)))


def power_of_panel(drop: float, problems: int, samples: int, rates: Beta) -> float:
    """The chance that `verdict.judge` sees a drop beyond noise on a report panel."""
    spread = spread_of_drop(drop, rates, samples)
    return power_of(spread.mean, spread.sd, problems, sides=1)


def panel_size(drop: float, samples: int, rates: Beta, power: float = POWER) -> int:
    """How many problems a report panel needs to show a drop with the wanted power.

    Args:
      drop: The true loss of mean pass rate, such as 0.05 for five points.
      samples: Completions a problem.
      rates: Pass rates before the drop, such as nullmodel.fit_beta finds them.
      power: The chance that `verdict.judge` sees it beyond noise.

    Raises:
      ValueError: The drop is 0 or larger than the mean.
    """
    spread = spread_of_drop(drop, rates, samples)
    if spread.sd == 0:  # nothing varies: two problems show whatever there is
        return 2
    return seeds_needed(spread.mean, spread.sd, power, sides=1)


def _least(enough: Callable[[int], bool], effect: float) -> int:
    """The least n >= 2 that is enough, of a condition that stays true."""
    high = 2
    while not enough(high):
        high *= 2
        if high > _MOST:
            raise ValueError(f"an effect of {effect} is out of reach of {_MOST:,}")
    low = high // 2
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _check(sd: float, power: float, level: float) -> None:
    if not (sd > 0 and 0 < level < power < 1):
        raise ValueError(
            f"sd={sd}, power={power}, level={level}: needs sd > 0 and 0 < level < power < 1"
        )
