import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfreg.analysis.selected import selected_drop

counts = st.lists(
    st.lists(st.integers(0, 4), min_size=6, max_size=6), min_size=2, max_size=5
).map(lambda rows: np.array(rows) / 4)  # fmt: skip


def permuted_p(panels, draws=4_000):
    """Return the share of random orders of each problem's readings with as large a drop."""
    rng = np.random.default_rng(0)
    drop = panels.mean(axis=1).max() - panels.mean(axis=1)[-1]
    hits = 0
    for _ in range(draws):
        means = rng.permuted(panels, axis=0).mean(axis=1)
        hits += means.max() - means[-1] >= drop - 1e-12
    return hits / draws


@pytest.mark.parametrize(("seed", "fall"), [(0, 0.0), (1, 0.05), (2, 0.1), (3, 0.0)])
def test_p_agrees_with_permutation(seed, fall):
    rng = np.random.default_rng(seed)
    rates = rng.beta(1, 1, 96)
    level = np.array([0.0, 0.0, 0.0, 0.0, fall])[:, None]
    panels = rng.binomial(4, np.clip(rates - level, 0, 1)) / 4
    found = selected_drop(panels)
    assert float(found.p) == pytest.approx(permuted_p(panels), abs=0.03)


def test_two_readings_by_hand():
    # Differences .5, 0, .5, 0 from the first reading to the second. Each problem's variance over
    # readings is half its difference squared: s = sqrt(.125 + .125) / 4 = .125, d = .25 / .125 = 2,
    # and P(Z1 - Z2 >= 2) = P(Z >= sqrt 2) = .0786.
    found = selected_drop(np.array([[1.0, 0.5, 0.5, 0.0], [0.5, 0.5, 0.0, 0.0]]))
    assert float(found.drop) == 0.25
    assert float(found.p) == pytest.approx(0.0786, abs=1e-4)


def test_more_readings_make_the_same_drop_less_surprising():
    rng = np.random.default_rng(0)
    first, last = rng.binomial(4, 0.55, 96) / 4, rng.binomial(4, 0.45, 96) / 4
    between = rng.binomial(4, 0.45, (8, 96)) / 4
    two = selected_drop(np.array([first, last]))
    ten = selected_drop(np.vstack([first[None], between, last[None]]))
    assert float(ten.drop) == float(two.drop)
    assert float(ten.p) > 2 * float(two.p)


def test_equal_readings_and_a_rise_have_no_drop():
    same = np.tile([0.25, 1.0, 0.5], (4, 1))
    assert (float(selected_drop(same).p), float(selected_drop(same).drop)) == (1, 0)
    rise = selected_drop(np.array([[0.0, 0.5], [1.0, 0.5]]))
    assert (float(rise.p), float(rise.biased_p), float(rise.drop)) == (1, 1, 0)


@settings(max_examples=40)
@given(counts)
def test_a_batch_of_campaigns_equals_each_campaign_alone(panels):
    together = selected_drop(np.stack([panels, panels[::-1]]))
    for i, one in enumerate((panels, panels[::-1])):
        alone = selected_drop(one)
        for name in ("drop", "p", "biased_p"):
            assert getattr(together, name)[i] == pytest.approx(float(getattr(alone, name)))
        assert 0 <= float(alone.p) <= 1
        assert float(alone.drop) == pytest.approx(one.mean(axis=1).max() - one[-1].mean())


@pytest.mark.parametrize("shape", [(4,), (1, 5), (5, 1)])
def test_too_little_is_refused(shape):
    with pytest.raises(ValueError, match="at least 2 readings"):
        selected_drop(np.zeros(shape))
