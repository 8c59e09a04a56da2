"""Differences and how sure they are: paired by problem, or paired by seed.

Intervals are two-sided and hold 95%. A chain experiment has few seeds, so that whatever can be
enumerated is: the bootstrap up to 6 values, the sign flips up to 20.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.stats import t as student

from selfreg.records import PanelScore

ENUMERATED_BOOTSTRAP, ENUMERATED_FLIPS = 6, 20
BOOTSTRAP_DRAWS = 100_000
_LEVELS = (0.025, 0.975)


@dataclass(frozen=True, slots=True)
class Difference:
    """The difference of two panel scores, paired by problem.

    Attributes:
      mean: Mean over problems of (after - before).
      standard_error: Clustered by problem: sd of the N differences / sqrt(N).
      low: Lower end of the 95% t interval with N - 1 degrees of freedom.
      high: Its upper end.
      problems: N.
      samples: Completions a problem behind each of the two scores, the fewer of the two.
    """

    mean: float
    standard_error: float
    low: float
    high: float
    problems: int
    samples: int

    def __neg__(self) -> "Difference":
        """The difference taken the other way."""
        return Difference(
            -self.mean, self.standard_error, -self.high, -self.low, self.problems, self.samples
        )


@dataclass(frozen=True, slots=True)
class SeedDifference:
    """The mean of n seed-paired differences.

    Attributes:
      differences: One a seed.
      mean: Their mean.
      bootstrap: 95% percentile bootstrap interval of the mean, over seeds.
      t: 95% t interval of the mean.
      sign_flip_p: Exact two-sided p of the mean, never below 2 ** (1 - n); None above 20 seeds.
    """

    differences: tuple[float, ...]
    mean: float
    bootstrap: tuple[float, float]
    t: tuple[float, float]
    sign_flip_p: float | None


def panel_difference(after: PanelScore, before: PanelScore) -> Difference:
    """The difference after - before on one panel, paired by problem.

    The problems are the sample: what it infers is the difference on problems like these, of these
    two policies. It says nothing of other training seeds.

    Raises:
      ValueError: The two scores are not of the same problems in the same order, or N < 2.
    """
    if after.problem_ids != before.problem_ids:
        shared = len(set(after.problem_ids) & set(before.problem_ids))
        raise ValueError(
            f"scores of different panels cannot be paired: {len(after.problem_ids)} and "
            f"{len(before.problem_ids)} problems, {shared} in common"
        )
    differences = np.asarray(after.pass_rates) - np.asarray(before.pass_rates)
    low, high = t_interval(differences)
    error = float(np.std(differences, ddof=1) / np.sqrt(len(differences)))
    return Difference(
        float(differences.mean()), error, low, high, len(differences),
        min(after.samples, before.samples),
    )  # fmt: skip


def t_interval(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """The interval mean ± t(0.975, n - 1) * sd / sqrt(n).

    Raises:
      ValueError: There are fewer than two values.
    """
    values = _sample(values, least=2)
    mean, n = values.mean(), len(values)
    half = student.ppf(_LEVELS[1], n - 1) * values.std(ddof=1) / np.sqrt(n)
    return float(mean - half), float(mean + half)


def bootstrap_interval(values: Sequence[float] | np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95% percentile bootstrap interval of the mean.

    Seed-paired when the values are paired differences, marginal when they are scores. The
    percentiles are quantiles of the resampled means themselves, never interpolated between them.

    Args:
      values: n values. For n <= 6 all n ** n resamples are enumerated, which makes it exact.
      seed: Of the 100,000 resamples drawn for a larger n.
    """
    values = _sample(values, least=1)
    n = len(values)
    if n <= ENUMERATED_BOOTSTRAP:
        means = values[np.array(list(product(range(n), repeat=n)))].mean(axis=1)
    else:
        rng = np.random.default_rng(seed)
        counts = rng.multinomial(n, np.full(n, 1 / n), BOOTSTRAP_DRAWS)
        means = counts @ values / n
    low, high = np.quantile(means, _LEVELS, method="inverted_cdf")
    return float(low), float(high)


def sign_flip_p(differences: Sequence[float] | np.ndarray) -> float:
    """Exact two-sided p of the hypothesis that differences are symmetric about 0.

    The share of the 2 ** n ways to sign the differences whose mean is at least as far from 0 as the
    observed one. The observed way is among them, so that p is never 0.

    Raises:
      ValueError: There are no differences, or more than 20.
    """
    values = _sample(differences, least=1)
    if len(values) > ENUMERATED_FLIPS:
        raise ValueError(f"{len(values)} differences: the enumeration ends at {ENUMERATED_FLIPS}")
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    # Sums of the same numbers in another order differ by rounding.
    observed = abs(values.sum()) - 1e-9 * np.abs(values).sum()
    return float(np.mean(np.abs(sums) >= observed))


def seed_difference(differences: Sequence[float] | np.ndarray) -> SeedDifference:
    """Everything that n seed-paired differences say of their mean.

    Raises:
      ValueError: There are fewer than 2.
    """
    values = _sample(differences, least=2)
    return SeedDifference(
        tuple(float(v) for v in values),
        float(values.mean()),
        bootstrap_interval(values),
        t_interval(values),
        sign_flip_p(values) if len(values) <= ENUMERATED_FLIPS else None,
    )


def _sample(values: Sequence[float] | np.ndarray, least: int) -> np.ndarray:
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or len(array) < least or not np.isfinite(array).all():
        raise ValueError(f"needs at least {least} finite values, not {array.tolist()}")
    return array
