from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from scipy.stats import t as student

from selfreg.analysis.stats import (
    bca_interval,
    bootstrap_interval,
    clustered_standard_error,
    holm,
    panel_difference,
    seed_difference,
    sign_flip_p,
    t_interval,
)
from selfreg.run.records import PanelScore

values = st.lists(st.floats(-1, 1).map(lambda x: round(x, 3)), min_size=2, max_size=6)


def panel(*rates: float, ids: str = "abcdefgh", samples: int = 8) -> PanelScore:
    return PanelScore(tuple(ids[: len(rates)]), np.array(rates), samples)


def test_panel_difference_by_hand():
    difference = panel_difference(panel(1.0, 0.5, 0.0), panel(0.5, 0.5, 0.0, samples=4))
    # Differences 0.5, 0, 0: mean 1/6, sd sqrt(1/12), t(0.975, 2) = 4.30265.
    error = np.sqrt(1 / 12) / np.sqrt(3)
    assert difference.mean == pytest.approx(1 / 6)
    assert difference.standard_error == pytest.approx(error)
    assert difference.low == pytest.approx(1 / 6 - 4.30265 * error, abs=1e-5)
    assert difference.high == pytest.approx(1 / 6 + 4.30265 * error, abs=1e-5)
    assert (difference.problems, difference.samples) == (3, 4)


def test_pairing_removes_the_spread_between_problems():
    easy_and_hard = panel(0.0, 1.0, 0.0, 1.0)
    moved = PanelScore(easy_and_hard.problem_ids, easy_and_hard.pass_rates - 0.1, 8)
    difference = panel_difference(moved, easy_and_hard)
    assert easy_and_hard.standard_error > 0.2
    assert difference.standard_error == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("other", [panel(0.1, 0.2, ids="ba"), panel(0.1, 0.2, 0.3)])
def test_other_panels_are_refused(other):
    with pytest.raises(ValueError, match="different panels"):
        panel_difference(panel(0.1, 0.2), other)


def test_one_problem_has_no_interval():
    with pytest.raises(ValueError, match="at least 2"):
        panel_difference(panel(0.1), panel(0.2))


def test_negation_is_the_difference_in_the_other_direction():
    a, b = panel(1.0, 0.5, 0.0), panel(0.5, 0.5, 0.25)
    assert -panel_difference(a, b) == panel_difference(b, a)


# From the paper's per-seed figures, in points.
CHECKS = [
    ([11.1, 10.2, 1.7, 1.7, -1.6], 4.62, (0.4, 9.0), 0.125),  # CARE - naive at 3B
    ([-11.28, 2.73, 3.69], -1.62, (-11.28, 3.69), 1.0),  # W18 - W17
    ([24.9, 18.7, 16.7], 20.1, (16.7, 24.9), 0.25),  # MORBO, marginal
]


@pytest.mark.parametrize(("differences", "mean", "interval", "p"), CHECKS)
def test_check_values(differences, mean, interval, p):
    result = seed_difference(differences)
    assert result.mean == pytest.approx(mean, abs=0.005)
    assert result.bootstrap == pytest.approx(interval, abs=0.05)
    assert result.sign_flip_p == p


def test_t_interval_by_hand():
    # n = 4, mean 2.5, sd 1.29099, t(0.975, 3) = 3.18245.
    half = 3.18245 * 1.29099 / 2
    assert t_interval([1, 2, 3, 4]) == pytest.approx((2.5 - half, 2.5 + half), abs=1e-4)


@given(values)
def test_sign_flip_against_its_definition(differences):
    means = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
        for signs in product((1, -1), repeat=len(differences))
    ]
    expected = np.mean([m >= abs(sum(differences)) - 1e-9 for m in means])
    assert sign_flip_p(differences) == pytest.approx(expected)


@given(values)
def test_sign_flip_is_two_sided_and_never_below_its_floor(differences):
    p = sign_flip_p(differences)
    assert p == sign_flip_p([-d for d in differences])
    assert 2.0 ** (1 - len(differences)) <= p <= 1


def test_sign_flip_enumerates_twenty_and_draws_beyond():
    assert sign_flip_p([1.0] * 20) == 2.0**-19
    rng = np.random.default_rng(3)
    many = rng.normal(0.2, 1, 40)
    # The sum of randomly signed values is nearly normal with variance sum of squares.
    expected = 2 * norm.sf(abs(many.sum()) / np.sqrt((many**2).sum()))
    assert sign_flip_p(many) == pytest.approx(expected, abs=0.01)
    assert sign_flip_p(many) == sign_flip_p(many)  # its seed is fixed
    assert sign_flip_p([1.0] * 60) == 1 / 100_001
    assert 0 < seed_difference([1.0, 0.9] * 11).sign_flip_p < 1e-4


@settings(max_examples=25)
@given(values, st.floats(-1, 1))
def test_exact_bootstrap_moves_with_the_values(differences, shift):
    low, high = bootstrap_interval(differences)
    assert min(differences) - 1e-9 <= low <= high <= max(differences) + 1e-9
    moved = bootstrap_interval([d + shift for d in differences])
    assert moved == pytest.approx((low + shift, high + shift), abs=1e-9)


def test_drawn_bootstrap_agrees_with_the_enumerated_one():
    seven = np.array([0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8])
    means = np.mean(np.meshgrid(*[seven] * 7), axis=0)  # all 7 ** 7 resamples
    drawn = bootstrap_interval(seven)
    assert drawn == pytest.approx(tuple(np.quantile(means, (0.025, 0.975))), abs=0.005)
    assert drawn == bootstrap_interval(seven)  # its seed is fixed


@pytest.mark.parametrize("bad", [[], [1.0], [1.0, float("nan")], [[1.0, 2.0]]])
def test_bad_samples_are_refused(bad):
    with pytest.raises(ValueError, match="at least 2 finite"):
        seed_difference(bad)


def bca_by_hand(data, seed):
    """Compute the interval by Efron's formulas, written out."""
    rng = np.random.default_rng(seed)
    means = rng.choice(data, (200_000, len(data))).mean(axis=1)
    z0 = norm.ppf((np.mean(means < data.mean()) + np.mean(means <= data.mean())) / 2)
    left_out = np.array([np.delete(data, i).mean() for i in range(len(data))])
    centred = left_out.mean() - left_out
    a = (centred**3).sum() / (6 * (centred**2).sum() ** 1.5)
    z = norm.ppf((0.025, 0.975))
    return np.quantile(means, norm.cdf(z0 + (z0 + z) / (1 - a * (z0 + z))))


def test_bca_against_its_formulas():
    skewed = np.array([0.0, 0.1, 0.1, 0.2, 0.3, 0.9, 1.5, 2.8])
    assert bca_interval(skewed) == pytest.approx(bca_by_hand(skewed, 5), abs=0.02)
    low, high = bca_interval(skewed)
    percentile = bootstrap_interval(skewed)
    assert low > percentile[0]  # the skew moves the interval to the right
    assert high > percentile[1]
    assert bca_interval([0.3, 0.3, 0.3]) is None


def test_clustered_error_by_hand():
    # Two clusters of two: means 0.25 and 1; sd 0.75 / sqrt(2) = 0.53033, / sqrt(2) = 0.375.
    values, clusters = np.array([0.0, 0.5, 1.0, 1.0]), np.array(["a", "a", "b", "b"])
    assert clustered_standard_error(values, clusters) == pytest.approx(0.375)
    # Unequal: mean 0.5, cluster sums of deviations -0.5 and 0.5; sqrt(2 * 0.5) / 3.
    unequal = clustered_standard_error(np.array([0.0, 0.5, 1.0]), np.array([0, 1, 1]))
    assert unequal == pytest.approx(1 / 3)


@given(st.lists(st.integers(0, 8), min_size=2, max_size=20))
def test_clusters_of_one_size_agree_with_a_panel(passed):
    rates = np.array(passed) / 8
    samples = np.concatenate([[1.0] * p + [0.0] * (8 - p) for p in passed])
    clusters = np.repeat(np.arange(len(passed)), 8)
    score = PanelScore(tuple(map(str, passed)), rates, 8)
    assert clustered_standard_error(samples, clusters) == pytest.approx(score.standard_error)


def test_one_cluster_and_other_lengths_are_refused():
    with pytest.raises(ValueError, match="at least two clusters"):
        clustered_standard_error(np.array([0.1, 0.2]), np.array([1, 1]))
    with pytest.raises(ValueError, match="shape"):
        clustered_standard_error(np.array([0.1, 0.2]), np.array([1, 1, 2]))


def test_holm_by_hand():
    # Sorted .005 .01 .03 .04 times 4 3 2 1: .02 .03 .06 .04, and none below the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]).tolist() == [1.0, 1.0]
    assert holm([]).tolist() == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_against_its_definition(p):
    """Reject in order of p while the i-th smallest is at most level / (m - i + 1)."""
    adjusted = holm(p)
    for level in (0.01, 0.05, 0.3):
        rejected = set()
        for i, index in enumerate(sorted(range(len(p)), key=p.__getitem__)):
            if p[index] * (len(p) - i) > level:
                break
            rejected.add(index)
        assert {i for i, q in enumerate(adjusted) if q <= level} == rejected


def test_one_sided_p_by_hand():
    difference = panel_difference(panel(1.0, 0.5, 0.0), panel(0.5, 0.5, 0.0))
    t = (1 / 6) / (np.sqrt(1 / 12) / np.sqrt(3))  # 1, with 2 degrees of freedom
    assert difference.p_above() == pytest.approx(student.sf(t, 2))
    assert difference.p_above() == pytest.approx(0.211325, abs=1e-6)
    assert difference.p_below(0.0) == pytest.approx(1 - 0.211325, abs=1e-6)
    assert difference.p_above(1 / 6) == pytest.approx(0.5)
    same = panel_difference(panel(0.5, 0.5), panel(0.5, 0.5))
    assert (same.p_above(), same.p_above(-0.01), same.p_below(0.1)) == (1, 0, 0)
