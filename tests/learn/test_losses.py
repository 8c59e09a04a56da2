"""Token losses computed by hand, and chunked logprobs against a plain softmax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfreg.algorithms.parts.losses import completion_mean, is_clipped, k3, policy_gradient
from selfreg.policy.learn.logprobs import token_logprobs

LOGPROBS = jnp.log(jnp.array([[0.5, 0.25]]))
SAMPLER = jnp.log(jnp.array([[0.25, 0.5]]))


@pytest.mark.parametrize("compiled", [False, True])
def test_policy_gradient_by_hand(compiled):
    wrap = jax.jit if compiled else (lambda f: f)
    plain = wrap(lambda: policy_gradient(LOGPROBS, None, jnp.array([2.0])))()
    np.testing.assert_allclose(plain, [[2 * np.log(2), 2 * np.log(4)]], rtol=1e-6)
    ratio = wrap(lambda: policy_gradient(LOGPROBS, LOGPROBS - SAMPLER, jnp.array([2.0])))()
    np.testing.assert_allclose(ratio, [[-2 * 2, -2 * 0.5]], rtol=1e-6)


def gradient(advantage, **options):
    """Return the gradient of the loss by the logprobs. The ratios are 2 and 0.5."""

    def total(logprobs):
        return policy_gradient(
            logprobs, logprobs - SAMPLER, jnp.array([[advantage]]), **options
        ).sum()

    return jax.grad(total)(LOGPROBS)


def test_a_truncated_ratio_by_hand():
    """-A min(pi / mu, cap) d log pi: the ratio 2 is truncated to 1.5."""
    np.testing.assert_allclose(gradient(2.0, ratio_cap=1.5), [[-2 * 1.5, -2 * 0.5]], rtol=1e-6)
    np.testing.assert_allclose(gradient(2.0, ratio_cap=9.0), gradient(2.0), rtol=1e-6)


@pytest.mark.parametrize(
    ("advantage", "clip", "loss", "slope", "clipped"),
    [
        # min(r A, clip(r) A) for r = 2 and 0.5: the clip stops moves in the direction of A.
        (1.0, (0.2, 0.2), [-1.2, -0.5], [0, -0.5], [1, 0]),
        (-1.0, (0.2, 0.2), [2, 0.8], [2, 0], [0, 1]),
        (1.0, (0.2, 1.5), [-2, -0.5], [-2, -0.5], [0, 0]),  # clip-higher
        (-1.0, (0.0, 0.2), [2, 0.5], [2, 0.5], [0, 0]),  # no lower bound
        (1.0, (0.2, 0.0), [-2, -0.5], [-2, -0.5], [0, 0]),  # no upper bound
    ],
)
def test_ppo_clip_by_hand(advantage, clip, loss, slope, clipped):
    options = {"clip_low": clip[0], "clip_high": clip[1]}
    each = jnp.array([[advantage]])
    log_ratio = LOGPROBS - SAMPLER
    got = policy_gradient(LOGPROBS, log_ratio, each, **options)
    np.testing.assert_allclose(got, [loss], rtol=1e-6)
    np.testing.assert_allclose(gradient(advantage, **options), [slope], atol=1e-6)
    np.testing.assert_array_equal(is_clipped(log_ratio, each, **options), [clipped])


def test_both_forms_have_one_gradient_on_the_samplers_own_policy():
    def of(ratio):
        fixed = jax.lax.stop_gradient(LOGPROBS)
        return jax.grad(
            lambda lp: policy_gradient(lp, lp - fixed if ratio else None, jnp.array([0.7])).sum()
        )(LOGPROBS)

    np.testing.assert_allclose(of(True), of(False), rtol=1e-6)


def test_means_over_completions_by_hand():
    values = jnp.array([[1.0, 3.0, 10.0, 99.0], [-1.0, -2.0, -6.0, 4.0]])
    completion = jnp.array([[2, 2, 0, 0], [1, 1, 1, 3]])
    mask = jnp.array([[1.0, 1, 1, 0], [1, 1, 1, 1]])
    got = completion_mean(values, completion, mask, 5) * mask
    np.testing.assert_allclose(got, [[2, 2, 10, 0], [-3, -3, -3, 4]], rtol=1e-6)


def test_k3_by_hand_and_never_negative():
    # r = reference / policy = 0.25 / 0.5 = 0.5: 0.5 - 1 - log 0.5.
    np.testing.assert_allclose(k3(LOGPROBS, SAMPLER)[0, 0], 0.5 - 1 + np.log(2), rtol=1e-6)
    values = jnp.linspace(-8, 0, 50)
    assert jnp.all(k3(values[:, None], values[None]) >= 0)
    # On samples of the policy, the mean of k3 is the KL divergence.
    p, q = np.array([0.7, 0.2, 0.1]), np.array([0.2, 0.5, 0.3])
    mean = np.sum(p * np.asarray(k3(jnp.log(p), jnp.log(q))))
    np.testing.assert_allclose(mean, np.sum(p * np.log(p / q)), rtol=1e-5)


@given(st.integers(1, 40), st.integers(0, 1000), st.sampled_from([0.7, 1.0]), st.booleans())
@settings(max_examples=20, deadline=None)
def test_chunks_change_neither_logprobs_nor_gradients(
    chunk_tokens, seed, temperature, train_entropy
):
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
            hidden, head, targets,
            temperature=temperature, chunk_tokens=chunk_tokens, train_entropy=train_entropy,
        )  # fmt: skip

    wanted, everything = plain(hidden, head)
    got, entropy = chunked(hidden, head)
    np.testing.assert_allclose(got, wanted, atol=1e-5)
    np.testing.assert_allclose(entropy, -jnp.sum(jnp.exp(everything) * everything, -1), atol=1e-5)

    def chunked_sum(hidden, head):
        logprobs, entropy = chunked(hidden, head)
        return jnp.sum(weights * logprobs + 0.5 * entropy)

    def plain_sum(hidden, head):
        logprobs, everything = plain(hidden, head)
        entropy = -jnp.sum(jnp.exp(everything) * everything, -1)
        return jnp.sum(weights * logprobs + (0.5 * entropy if train_entropy else 0))

    # An entropy that is only reported adds nothing to the gradient.
    grads, wanted_grads = (jax.grad(f, (0, 1))(hidden, head) for f in (chunked_sum, plain_sum))
    for a, b in zip(grads, wanted_grads, strict=True):
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
