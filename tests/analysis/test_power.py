import numpy as np
import pytest
from scipy.stats import ttest_1samp

from selfreg.analysis.nullmodel import Beta
from selfreg.analysis.power import (
    minimal_detectable_effect,
    panel_size,
    power_of,
    power_of_panel,
    seeds_needed,
    spread_of_drop,
)


def test_known_sizes():
    # Cohen (1988), two-sided .05, power .80: d = .5 needs 34 differences, d = .8 needs 15.
    assert seeds_needed(0.5, 1.0) == 34
    assert seeds_needed(0.8, 1.0) == 15
    assert seeds_needed(-0.8, 1.0) == 15
    assert seeds_needed(0.5, 1.0, sides=1) == 27


def test_power_against_simulation():
    rng = np.random.default_rng(0)
    draws = rng.normal(0.7, 1.0, (20_000, 8))
    rejected = np.mean(ttest_1samp(draws, 0, axis=1).pvalue <= 0.05)
    assert power_of(0.7, 1.0, 8) == pytest.approx(rejected, abs=0.01)
    assert power_of(0.0, 1.0, 8) == pytest.approx(0.05)


def test_the_detectable_effect_has_the_power_that_was_asked_for():
    for n, power in ((5, 0.8), (3, 0.9), (40, 0.5)):
        effect = minimal_detectable_effect(0.07, n, power)
        assert power_of(effect, 0.07, n) == pytest.approx(power, abs=1e-6)
    # Five seeds detect no effect below 1.7 standard deviations.
    assert minimal_detectable_effect(1.0, 5) == pytest.approx(1.68, abs=0.01)


def test_the_least_number_is_the_least():
    n = seeds_needed(0.3, 1.0, power=0.9)
    assert power_of(0.3, 1.0, n) >= 0.9 > power_of(0.3, 1.0, n - 1)


def test_spread_by_hand():
    # Rates all 1/2 (concentration 1e9), drop .25: q = 1/4. (1/4 + 3/16) / 4 samples.
    found = spread_of_drop(0.25, Beta(0.5, 1e9), 4)
    assert found.mean == 0.25
    assert found.sd == pytest.approx(np.sqrt((0.25 + 0.1875) / 4))


def drops(rng, drop, rates, problems, samples, runs):
    """Simulate differences [runs, problems] if all rates fall by one share, `drop` on average."""
    a, b = rates.mean * rates.concentration, (1 - rates.mean) * rates.concentration
    before = rng.beta(a, b, (runs, problems))
    after = before * (1 - drop / rates.mean)
    return (rng.binomial(samples, before) - rng.binomial(samples, after)) / samples


@pytest.mark.parametrize(("mean", "drop"), [(0.5, 0.05), (0.5, 0.0), (0.2, 0.1)])
def test_power_of_a_panel_against_simulation(mean, drop):
    rates, rng = Beta(mean, 2.0), np.random.default_rng(1)
    found = drops(rng, drop, rates, 96, 8, 4_000)
    p = ttest_1samp(found, 0, axis=1, alternative="greater").pvalue
    assert power_of_panel(drop, 96, 8, rates) == pytest.approx(np.mean(p <= 0.05), abs=0.02)


def test_a_panel_of_the_returned_size_finds_the_drop():
    rates = Beta(0.5, 2.0)
    problems = panel_size(0.05, 8, rates, power=0.8)
    assert power_of_panel(0.05, problems, 8, rates) >= 0.8
    assert power_of_panel(0.05, problems - 1, 8, rates) < 0.8
    assert panel_size(0.05, 16, rates) < problems < panel_size(0.03, 8, rates)


@pytest.mark.parametrize(
    "call",
    [
        lambda: seeds_needed(0.0, 1.0),
        lambda: seeds_needed(0.1, 0.0),
        lambda: seeds_needed(0.1, 1.0, power=0.05),
        lambda: minimal_detectable_effect(1.0, 1),
        lambda: panel_size(0.6, 8, Beta(0.5, 2.0)),
        lambda: spread_of_drop(0.1, Beta(0.5, 2.0), 0),
    ],
)
def test_impossible_arguments_are_refused(call):
    with pytest.raises(ValueError):
        call()
