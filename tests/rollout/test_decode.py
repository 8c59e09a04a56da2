"""The compiled decoding loop still has the properties that make it fast on a CPU."""

import math
import re
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfreg.policy.models.block import linear, linear_of_few
from selfreg.policy.models.policy import load_policy
from selfreg.policy.rollout import decode
from selfreg.run.records import Sampling

POLICY, PARAMS = load_policy("tiny")
ROWS, PROMPT = 8, 128  # no other array has as many elements as a prompt's keys


@pytest.fixture(scope="module")
def segment_program():
    """Return XLA's program of a segment for eight rows of one prompt, compiled for this CPU."""
    weights = jax.eval_shape(partial(decode.unstack, POLICY, dtype=jnp.dtype("float32")), PARAMS)
    rows = jax.eval_shape(
        partial(decode.prefill, POLICY, lane=ROWS, new_tokens=48),
        weights,
        np.zeros((1, PROMPT), np.int32),
        np.ones(1, np.int32),
        np.zeros(ROWS, np.uint32),
        np.zeros(ROWS, bool),
    )
    segment = partial(decode.segment, POLICY, sampling=Sampling(1.0, 1.0, 0, 48), tokens=16)
    lowered = jax.jit(segment, donate_argnums=1).lower(weights, rows, np.int32(0), np.int32(48))
    return lowered.compile().as_text()


def test_products_with_weights_have_the_weight_on_the_left(segment_program):
    shapes = re.findall(r"= f32\[(\d+),(\d+)\]\S* dot\(", segment_program)
    config = POLICY.config
    assert set(shapes) == {
        (str(size), str(ROWS)) for size in (64, config.width, config.ffn_width, config.vocab_size)
    }


def test_a_prompts_cache_is_not_copied_at_every_token(segment_program):
    cache = POLICY.config.kv_heads * POLICY.config.head_dim * PROMPT
    moved = re.findall(r"= f32\[([\d,]+)\]\S* (?:copy|transpose)\(", segment_program)
    assert moved
    assert all(math.prod(map(int, shape.split(","))) != cache for shape in moved)


@pytest.mark.parametrize("shape", [(5, 24), (2, 3, 24), (4, 1, 24)])
def test_a_product_of_few_rows_is_the_product(shape):
    draw = np.random.default_rng(0).normal
    x, weight = (jnp.asarray(draw(size=size), jnp.float32) for size in (shape, (7, 24)))
    np.testing.assert_allclose(linear_of_few(x, weight), linear(x, weight), atol=1e-5)


def test_a_gpus_order_of_the_caches_draws_the_same(monkeypatch):
    weights = decode.unstack(POLICY, PARAMS, dtype=jnp.dtype("float32"))
    prompts, lengths = np.arange(2 * 32, dtype=np.int32).reshape(2, 32), np.array([20, 32])
    seeds = np.arange(ROWS, dtype=np.uint32)

    def drawn():
        rows = decode.prefill(
            POLICY, weights, prompts, lengths, seeds, np.zeros(ROWS, bool), lane=4, new_tokens=48
        )
        kept, found = rows.caches[0], []
        for start in (0, 16):
            rows, *out = decode.segment(
                POLICY, weights, rows, np.int32(start), np.int32(48),
                sampling=Sampling(1.0, 1.0, 0, 48), tokens=16,
            )  # fmt: skip
            found.append(out[0])
        return kept, found

    kept, own = drawn()
    gpu = SimpleNamespace(platform="gpu", compute_capability="9.0")
    monkeypatch.setattr(decode, "device_in_force", lambda: gpu)
    swapped, others = drawn()
    assert swapped.k.shape == kept.v.shape != kept.k.shape == swapped.v.shape
    for one, other in zip(own, others, strict=True):
        np.testing.assert_array_equal(one.tokens, other.tokens)
        np.testing.assert_allclose(one.logprobs, other.logprobs, rtol=1e-4, atol=1e-5)
