"""Token losses by hand, chunked logprobs against a plain softmax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfreg.learn.logprobs import token_logprobs
from selfreg.learn.losses import k3, policy_gradient

LOGPROBS = jnp.log(jnp.array([[0.5, 0.25]]))
SAMPLER = jnp.log(jnp.array([[0.25, 0.5]]))


@pytest.mark.parametrize("compiled", [False, True])
def test_policy_gradient_by_hand(compiled):
    wrap = jax.jit if compiled else (lambda f: f)
    plain = wrap(lambda: policy_gradient(LOGPROBS, SAMPLER, jnp.array([2.0]), use_ratio=False))()
    np.testing.assert_allclose(plain, [[2 * np.log(2), 2 * np.log(4)]], rtol=1e-6)
    ratio = wrap(lambda: policy_gradient(LOGPROBS, SAMPLER, jnp.array([2.0]), use_ratio=True))()
    np.testing.assert_allclose(ratio, [[-2 * 2, -2 * 0.5]], rtol=1e-6)


def test_a_truncated_ratio_by_hand():
    """-A min(pi / mu, cap) d log pi: ratios are 2 and 0.5, and 2 is cut to 1.5."""

    def total(logprobs, cap):
        return policy_gradient(
            logprobs, SAMPLER, jnp.array([[2.0]]), use_ratio=True, ratio_cap=cap
        ).sum()

    np.testing.assert_allclose(jax.grad(total)(LOGPROBS, 1.5), [[-2 * 1.5, -2 * 0.5]], rtol=1e-6)
    whole = jax.grad(
        lambda lp: policy_gradient(lp, SAMPLER, jnp.array([[2.0]]), use_ratio=True).sum()
    )
    np.testing.assert_allclose(jax.grad(total)(LOGPROBS, 9.0), whole(LOGPROBS), rtol=1e-6)


def test_both_forms_have_one_gradient_on_the_samplers_own_policy():
    def gradient(use_ratio):
        fixed = jax.lax.stop_gradient(LOGPROBS)
        return jax.grad(
            lambda lp: policy_gradient(lp, fixed, jnp.array([0.7]), use_ratio=use_ratio).sum()
        )(LOGPROBS)

    np.testing.assert_allclose(gradient(True), gradient(False), rtol=1e-6)


def test_k3_by_hand_and_never_negative():
    # r = reference / policy = 0.25 / 0.5 = 0.5: 0.5 - 1 - log 0.5.
    np.testing.assert_allclose(k3(LOGPROBS, SAMPLER)[0, 0], 0.5 - 1 + np.log(2), rtol=1e-6)
    values = jnp.linspace(-8, 0, 50)
    assert jnp.all(k3(values[:, None], values[None]) >= 0)
    # On samples of the policy its mean is the divergence itself.
    p, q = np.array([0.7, 0.2, 0.1]), np.array([0.2, 0.5, 0.3])
    mean = np.sum(p * np.asarray(k3(jnp.log(p), jnp.log(q))))
    np.testing.assert_allclose(mean, np.sum(p * np.log(p / q)), rtol=1e-5)


@given(st.integers(1, 40), st.integers(0, 1000), st.sampled_from([0.7, 1.0]))
@settings(max_examples=20, deadline=None)
def test_chunks_change_neither_logprobs_nor_gradients(chunk_tokens, seed, temperature):
    generator = np.random.default_rng(seed)
    hidden = jnp.asarray(generator.normal(size=(3, 7, 8)), jnp.float32)
    head = jnp.asarray(generator.normal(size=(11, 8)), jnp.float32)
    targets = jnp.asarray(generator.integers(0, 11, (3, 7)))
    weights = jnp.asarray(generator.normal(size=(3, 7)), jnp.float32)

    def plain(hidden, head):
        logprobs = jax.nn.log_softmax(hidden @ head.T / temperature)
        return jnp.take_along_axis(logprobs, targets[..., None], -1)[..., 0], logprobs

    def chunked(hidden, head):
        return token_logprobs(
            hidden, head, targets, temperature=temperature, chunk_tokens=chunk_tokens
        )

    wanted, everything = plain(hidden, head)
    got, entropy = chunked(hidden, head)
    np.testing.assert_allclose(got, wanted, atol=1e-5)
    np.testing.assert_allclose(entropy, -jnp.sum(jnp.exp(everything) * everything, -1), atol=1e-5)
    # The entropy is watched, not trained: it adds nothing to the gradient.
    grads = jax.grad(lambda h, w: jnp.sum(weights * chunked(h, w)[0] + chunked(h, w)[1]), (0, 1))
    wanted_grads = jax.grad(lambda h, w: jnp.sum(weights * plain(h, w)[0]), (0, 1))
    for a, b in zip(grads(hidden, head), wanted_grads(hidden, head), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_the_logits_of_a_batch_never_exist_whole():
    vocabulary, tokens, chunk = 5000, 512, 64
    hidden, head = jnp.zeros((1, tokens, 16)), jnp.zeros((vocabulary, 16))
    targets = jnp.zeros((1, tokens), jnp.int32)

    def loss(hidden, head):
        return token_logprobs(hidden, head, targets, temperature=1.0, chunk_tokens=chunk)[0].sum()

    compiled = jax.jit(jax.grad(loss, (0, 1))).lower(hidden, head).compile()
    temporary = compiled.memory_analysis().temp_size_in_bytes
    assert temporary < tokens * vocabulary * 4 / 2
