"""Drawing tokens: the right distribution and filters, and never a filtered token."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from selfreg.policy.rollout.sampling import allowed, draw
from selfreg.run.records import Sampling


def sampling(temperature=1.0, top_p=1.0, top_k=0):
    return Sampling(temperature, top_p, top_k, max_new_tokens=1)


def slow_allowed(logits, top_p, top_k):
    """Draw row by row, by sorting tokens."""
    order = np.argsort(-logits, kind="stable")
    keep = np.ones(len(logits), bool)
    if top_k:
        keep[logits < logits[order[min(top_k, len(logits)) - 1]]] = False
    if top_p < 1:
        p = np.where(keep, np.exp(logits - logits.max()), 0)
        p = p / p.sum()
        total, least = 0.0, None
        for token in order:
            total += p[token]
            least = logits[token]
            if total >= top_p:
                break
        keep &= logits >= least
    return keep


@given(
    st.integers(0, 2**31),
    st.floats(0.05, 0.999),
    st.integers(0, 40),
)
@settings(max_examples=40, deadline=None)
def test_filters_equal_a_slow_loop(seed, top_p, top_k):
    logits = np.random.default_rng(seed).normal(0, 2, (2, 37)).astype(np.float32)
    got = np.asarray(allowed(jnp.asarray(logits), sampling(top_p=top_p, top_k=top_k)))
    for row in range(2):
        wanted = slow_allowed(logits[row].astype(float), top_p, top_k)
        # A token whose cumulative sum equals p up to rounding may be kept or filtered.
        assert np.sum(got[row] != wanted) <= 1


@pytest.mark.parametrize("vocabulary", [5, 128, 300])
@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_frequencies_fit_the_distribution(vocabulary, temperature):
    generator = np.random.default_rng(vocabulary)
    logits = generator.normal(0, 1.5, vocabulary).astype(np.float32)
    count = 40_000
    rows = jnp.broadcast_to(jnp.asarray(logits), (count, vocabulary))
    uniform = jax.random.uniform(jax.random.key(1), (count,))
    tokens, logprobs = jax.jit(draw, static_argnums=2)(rows, uniform, sampling(temperature))
    p = np.exp(logits / temperature) / np.sum(np.exp(logits / temperature))
    observed = np.bincount(tokens, minlength=vocabulary)
    common = p * count >= 5
    table = [[*a[common], a[~common].sum()] for a in (observed, p * count)]
    kept = np.array(table)[:, np.array(table[1]) > 0]
    assert stats.chisquare(*kept * [[1], [kept[0].sum() / kept[1].sum()]]).pvalue > 1e-4
    np.testing.assert_allclose(logprobs, np.log(p)[np.asarray(tokens)], atol=1e-5)


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-24, 0.5])
def test_a_filtered_token_is_never_drawn(uniform):
    logits = jnp.array([[5.0] * 3 + [0.0] * 297, [0.0] * 297 + [5.0] * 3])
    token, logprob = draw(logits, jnp.full(2, uniform), sampling(top_k=3))
    assert token[0] < 3
    assert token[1] >= 297
    # The logprob is that of the unfiltered distribution: three likely tokens and 297 others.
    wanted = 5 - np.log(3 * np.exp(5) + 297)
    np.testing.assert_allclose(logprob, wanted, rtol=1e-5)


def test_greedy_takes_the_likeliest():
    logits = jnp.array([[0.0, 3.0, 1.0]])
    token, logprob = draw(logits, jnp.zeros(1), sampling(temperature=0.0))
    assert token[0] == 1
    np.testing.assert_allclose(logprob, jax.nn.log_softmax(logits)[:, 1])
