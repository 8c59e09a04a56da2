"""Coefficients that follow measurements, computed by hand."""

import math
from types import SimpleNamespace

import pytest

from selfreg.policy.learn import pace

OFF = {"kl_target": 0.0, "entropy_target": 0.0, "entropy_step": 0.005, "entropy_coef": 0.0}


def learn(**changes):
    return SimpleNamespace(**OFF | changes)


def after(own, *metrics):
    state = pace.begin(own)
    for each in metrics:
        state = pace.observe(state, each, own)
    return state


def test_without_targets_nothing_moves():
    state = after(learn(entropy_coef=0.01), {"k3_kl": 9.0, "entropy": 0.0, "grad_norm": 2.0})
    assert (state.kl_factor, pace.entropy_coef(state, learn())) == (1.0, 0.01)


def test_the_kl_factor_by_hand():
    own = learn(kl_target=0.1)
    # An error of 5% counts as 0.05. Twice the target, and zero, both count as 0.2.
    assert after(own, {"k3_kl": 0.105}).kl_factor == pytest.approx(1.005)
    assert after(own, {"k3_kl": 0.2}).kl_factor == pytest.approx(1.02)
    assert after(own, {"k3_kl": 0.0}, {"k3_kl": 0.0}).kl_factor == pytest.approx(0.98**2)
    assert after(own, {"k3_kl": 0.1}).kl_factor == 1.0
    assert after(own, {}).kl_factor == 1.0  # a step without a measurement


def test_the_entropy_coefficient_by_hand():
    own = learn(entropy_target=0.3, entropy_step=0.01, entropy_coef=0.02)
    assert pace.entropy_coef(pace.begin(own), own) == 0.02
    low = after(own, {"entropy": 0.2}, {"entropy": 0.1})
    assert pace.entropy_coef(low, own) == pytest.approx(0.04)
    # Above the target the bonus is 0, and meanwhile the coefficient falls.
    high = after(own, {"entropy": 0.2}, {"entropy": 0.4})
    assert pace.entropy_coef(high, own) == 0.0
    assert high.entropy_coef == pytest.approx(0.02)
    assert after(own, *[{"entropy": 0.4}] * 9).entropy_coef == 0.0  # never below 0


def test_a_norm_is_judged_by_the_median_of_its_past():
    own, norms = learn(), [{"grad_norm": float(n)} for n in (1, 2, 3, 4, 5, 6, 7)]
    assert pace.most_norm(after(own, *norms), 2.0) == math.inf  # too few norms
    state = after(own, *norms, {"grad_norm": 100.0})
    assert pace.most_norm(state, 2.0) == 2 * 4.5
    assert pace.most_norm(state, 0.0) == math.inf
    # Steps without a gradient do not count.
    assert after(own, {"grad_norm": 0.0}, {}).norms == ()
    # If gradients stay large, they stop being outliers after half a window.
    small, large = [{"grad_norm": 1.0}] * 32, [{"grad_norm": 50.0}]
    assert pace.most_norm(after(own, *small, *large * 16), 2.0) == 2 * 25.5
    assert pace.most_norm(after(own, *small, *large * 17), 2.0) == 100
    assert len(after(own, *small, *large * 9).norms) == 32


def test_skipped_updates_are_counted():
    made, skipped = ({"grad_norm": 1.0, "update_skipped": x} for x in (0.0, 1.0))
    assert after(learn(), made, skipped, skipped).skipped == 2
