"""DPO's advantages, computed by hand and compared with autodiff of the plain loss."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from selfreg.algorithms.parts import pairs
from selfreg.run.algorithm import find_algorithm


def pair_advantages(passed, failed, log_ratios, beta):
    dpo = find_algorithm("dpo")
    dpo = replace(dpo, settings=replace(dpo.settings, dpo_beta=beta))
    return pairs.pair_advantages(dpo, passed, failed, log_ratios)


def plain(log_ratios, passed, beta):
    """Compute DPO's loss pair by pair."""
    losses = [
        -jax.nn.log_sigmoid(beta * (group[won] - group[lost]))
        for group, own in zip(log_ratios, passed, strict=True)
        for won in np.flatnonzero(own)
        for lost in np.flatnonzero(~own)
    ]
    return sum(losses) / len(losses)


def test_by_hand():
    # One pair with h = 0.5 (log 3 - log 1): sigmoid(-h) = 1 / (1 + sqrt 3).
    passed, log_ratios = np.array([[True, False]]), np.log([[3.0, 1.0]])
    got, metrics = pair_advantages(passed, ~passed, log_ratios, 0.5)
    slope = 0.5 / (1 + 3**0.5)
    np.testing.assert_allclose(got, [slope, -slope], rtol=1e-6)
    np.testing.assert_allclose(metrics["loss"], np.log(1 + 3**-0.5), rtol=1e-6)
    np.testing.assert_allclose(metrics["dpo/margin"], 0.5 * np.log(3), rtol=1e-6)
    assert (metrics["dpo/pairs"], metrics["dpo/accuracy"]) == (1, 1)


def test_on_the_reference_itself_every_pair_counts_alike():
    passed = np.array([[True, False, False], [True, True, True], [False, True, True]])
    got, metrics = pair_advantages(passed, ~passed, np.zeros((3, 3)), 0.1)
    each = 0.1 / 2 / 4  # beta sigmoid(0) / pairs
    np.testing.assert_allclose(got, each * np.array([2, -1, -1, 0, 0, 0, -2, 1, 1]), rtol=1e-6)
    np.testing.assert_allclose(metrics["loss"], np.log(2), rtol=1e-6)
    assert (metrics["dpo/pairs"], metrics["dpo/accuracy"]) == (4, 0)


def test_without_a_pair_nothing_is_learned():
    got, metrics = pair_advantages(
        np.ones((2, 3), bool), np.zeros((2, 3), bool), np.zeros((2, 3)), 0.1
    )
    assert got.tolist() == [0] * 6
    assert metrics == {"loss": 0.0, "dpo/pairs": 0.0}


@given(st.integers(0, 10_000), st.floats(0.01, 5), st.floats(0.1, 300))
@settings(max_examples=25, deadline=None)
def test_advantages_are_the_gradient_of_the_plain_loss(seed, beta, scale):
    generator = np.random.default_rng(seed)
    passed = generator.random((3, 4)) < 0.5
    passed[0] = [True, False, False, True]  # at least one pair
    log_ratios = jnp.asarray(scale * generator.normal(size=(3, 4)), jnp.float32)
    value, gradient = jax.value_and_grad(plain)(log_ratios, passed, beta)
    got, metrics = pair_advantages(passed, ~passed, np.asarray(log_ratios), beta)
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(got, -gradient.reshape(-1), rtol=1e-4, atol=1e-6)
