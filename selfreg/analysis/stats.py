"""Differences with their uncertainty, paired by problem or paired by seed.

Intervals are two-sided at 95%. Because experiments with chains have few seeds, small samples are
enumerated: the bootstrap up to 6 values, the sign flips up to 20. Larger ones use 100,000 draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.stats import bootstrap
from scipy.stats import t as student

from selfreg.run.records import PanelScore

ENUMERATED_BOOTSTRAP, ENUMERATED_FLIPS = 6, 20
DRAWS = 100_000
_CHUNK = 10_000
_LEVELS = (0.025, 0.975)


@dataclass(frozen=True, slots=True)
class Difference:
    """The difference of two panel scores, paired by problem.

    Attributes:
      mean: Mean over problems of (after - before).
      standard_error: Standard error, clustered by problem: sd of the N differences / sqrt(N).
      low: Lower end of the 95% t interval with N - 1 degrees of freedom.
      high: Upper end of that interval.
      problems: N, the number of problems.
      samples: Completions per problem; the smaller number if the two scores differ.
    """

    mean: float
    standard_error: float
    low: float
    high: float
    problems: int
    samples: int

    def p_above(self, bound: float = 0.0) -> float:
        """Return the one-sided p of the hypothesis that the true difference is at most `bound`.

        This is a t test with N - 1 degrees of freedom. If the difference is equal on every problem,
        it counts as known: p is 0 above the bound, and 1 at or below it.
        """
        if self.standard_error == 0:
            return float(self.mean <= bound)
        return float(student.sf((self.mean - bound) / self.standard_error, self.problems - 1))

    def p_below(self, bound: float) -> float:
        """Return the one-sided p of the hypothesis that the true difference is at least `bound`."""
        return (-self).p_above(-bound)

    def __neg__(self) -> "Difference":
        """Return the difference in the opposite direction."""
        return Difference(
            -self.mean, self.standard_error, -self.high, -self.low, self.problems, self.samples
        )


@dataclass(frozen=True, slots=True)
class SeedDifference:
    """The mean of n seed-paired differences.

    Attributes:
      differences: One difference per seed.
      mean: Mean of the differences.
      bootstrap: 95% percentile bootstrap interval of the mean, over seeds.
      bca: 95% bias-corrected and accelerated bootstrap interval; None if all differences are equal.
      t: 95% t interval of the mean.
      sign_flip_p: Two-sided p of the mean; exact up to 20 seeds, and never below 2 ** (1 - n).
    """

    differences: tuple[float, ...]
    mean: float
    bootstrap: tuple[float, float]
    bca: tuple[float, float] | None
    t: tuple[float, float]
    sign_flip_p: float


def panel_difference(after: PanelScore, before: PanelScore) -> Difference:
    """Return the difference after - before on one panel, paired by problem.

    The problems are the sample. The interval therefore covers these two policies on similar
    problems, and says nothing about other training seeds.

    Raises:
      ValueError: The scores do not have the same problems in the same order, or N < 2.
    """
    if after.problem_ids != before.problem_ids:
        shared = len(set(after.problem_ids) & set(before.problem_ids))
        raise ValueError(
            f"scores of different panels cannot be paired: {len(after.problem_ids)} and "
            f"{len(before.problem_ids)} problems, {shared} in common"
        )
    differences = np.asarray(after.pass_rates) - np.asarray(before.pass_rates)
    differences = differences[~np.isnan(differences)]  # only problems that were graded both times
    low, high = t_interval(differences)
    error = float(np.std(differences, ddof=1) / np.sqrt(len(differences)))
    return Difference(
        float(differences.mean()), error, low, high, len(differences),
        min(after.samples, before.samples),
    )  # fmt: skip


def t_interval(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Return the 95% t interval mean ± t(0.975, n - 1) * sd / sqrt(n).

    Raises:
      ValueError: There are fewer than two values.
    """
    values = _sample(values, least=2)
    mean, n = values.mean(), len(values)
    half = student.ppf(_LEVELS[1], n - 1) * values.std(ddof=1) / np.sqrt(n)
    return float(mean - half), float(mean + half)


def bootstrap_interval(values: Sequence[float] | np.ndarray, seed: int = 0) -> tuple[float, float]:
    """Return the 95% percentile bootstrap interval of the mean.

    It is seed-paired if the values are paired differences, and marginal if they are scores. The
    limits are resampled means themselves, without interpolation.

    Args:
      values: n values. For n <= 6 all n ** n resamples are enumerated, so the interval is exact.
      seed: Seed of the 100,000 resamples for a larger n.
    """
    values = _sample(values, least=1)
    n = len(values)
    if n <= ENUMERATED_BOOTSTRAP:
        means = values[np.array(list(product(range(n), repeat=n)))].mean(axis=1)
    else:
        rng = np.random.default_rng(seed)
        counts = rng.multinomial(n, np.full(n, 1 / n), DRAWS)
        means = counts @ values / n
    low, high = np.quantile(means, _LEVELS, method="inverted_cdf")
    return float(low), float(high)


def bca_interval(values: Sequence[float] | np.ndarray, seed: int = 0) -> tuple[float, float] | None:
    """Return the 95% bias-corrected and accelerated bootstrap interval of the mean (Efron 1987).

    The interval is undefined, and None, if all values are equal.

    Raises:
      ValueError: There are fewer than two values.
    """
    values = _sample(values, least=2)
    if np.ptp(values) == 0:
        return None
    found = bootstrap(
        (values,), np.mean, n_resamples=DRAWS, batch=_CHUNK, method="BCa",
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def sign_flip_p(differences: Sequence[float] | np.ndarray, seed: int = 0) -> float:
    """Return the two-sided p of the hypothesis that the differences are symmetric about 0.

    p is the share of the 2 ** n choices of signs whose mean is at least as far from 0 as the
    observed mean. The observed choice is among them, so p is never 0.

    Args:
      differences: n values. For n <= 20 all choices are enumerated, so p is exact.
      seed: Seed of the 100,000 choices drawn for a larger n. The observed choice is added to them.

    Raises:
      ValueError: There are no differences.
    """
    values = _sample(differences, least=1)
    # Sums of the same numbers in a different order differ by rounding.
    observed = abs(values.sum()) - 1e-9 * np.abs(values).sum()
    if len(values) > ENUMERATED_FLIPS:
        rng, hits = np.random.default_rng(seed), 0
        for _ in range(DRAWS // _CHUNK):
            signs = rng.choice((-1.0, 1.0), (_CHUNK, len(values)))
            hits += int((np.abs(signs @ values) >= observed).sum())
        return (1 + hits) / (1 + DRAWS)
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    return float(np.mean(np.abs(sums) >= observed))


def clustered_standard_error(values: np.ndarray, clusters: np.ndarray) -> float:
    """Return the standard error of the mean of clustered values, such as samples of one problem.

        sqrt(K / (K - 1) * sum over clusters of (sum of x - mean in the cluster)^2) / n

    This is Liang and Zeger's estimator (1986) with the correction for few clusters. For K clusters
    of equal size it equals the sd of the cluster means / sqrt(K).

    Args:
      values: float [n].
      clusters: [n], cluster of each value, as numbers or names.

    Raises:
      ValueError: The lengths differ, or there are fewer than two clusters.
    """
    values = _sample(values, least=2)
    if np.shape(clusters) != values.shape:
        raise ValueError(f"{len(values)} values, but clusters have shape {np.shape(clusters)}")
    _, own = np.unique(np.asarray(clusters), return_inverse=True)
    count = int(own.max()) + 1
    if count < 2:
        raise ValueError("at least two clusters are needed to estimate the spread between them")
    sums = np.bincount(own, values - values.mean())
    return float(np.sqrt(count / (count - 1) * (sums**2).sum()) / len(values))


def holm(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return Holm's adjusted p-values (1979).

    Rejecting where the adjusted p is at most a level bounds the probability of any false rejection
    by that level. The i-th smallest of m values is multiplied by m - i + 1, and then raised to the
    largest adjusted value before it.

    Args:
      p: [m] p-values of tests with any dependence.

    Returns:
      float64 [m], at most 1, in the order of p.
    """
    values = np.asarray(p, np.float64)
    order = np.argsort(values)
    scaled = values[order] * np.arange(len(values), 0, -1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return adjusted


def seed_difference(differences: Sequence[float] | np.ndarray) -> SeedDifference:
    """Summarize n seed-paired differences: mean, intervals and p.

    Raises:
      ValueError: There are fewer than 2 differences.
    """
    values = _sample(differences, least=2)
    return SeedDifference(
        tuple(float(v) for v in values),
        float(values.mean()),
        bootstrap_interval(values),
        bca_interval(values),
        t_interval(values),
        sign_flip_p(values),
    )


def _sample(values: Sequence[float] | np.ndarray, least: int) -> np.ndarray:
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or len(array) < least or not np.isfinite(array).all():
        raise ValueError(f"at least {least} finite values are needed, not {array.tolist()}")
    return array
