"""The decoder against itself: prefixes, remat, depth, and saving and loading folders."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from selfreg.policy.models import hf
from selfreg.policy.models.policy import (
    abstract_params,
    count_parameters,
    load_policy,
    make_policy,
    random_params,
)

WITH_AND_WITHOUT_WINDOWS = pytest.mark.parametrize(
    "pair", [("qwen2", True), ("gemma3", True)], indirect=True, ids=lambda case: case[0]
)
F32 = jnp.dtype("float32")


def squares(policy, params, tokens, lengths):
    return jnp.sum(policy.decoder(params)(tokens, lengths, F32)[0] ** 2)


def products_in_gradient(policy):
    """Count the matrix products in a gradient's program. A scanned layer counts once."""
    ints = jax.ShapeDtypeStruct((2, 20), jnp.int32), jax.ShapeDtypeStruct((2,), jnp.int32)
    gradient = jax.jit(jax.grad(lambda *a: squares(policy, *a)))
    return gradient.lower(abstract_params(policy), *ints).as_text().count("stablehlo.dot_general")


@WITH_AND_WITHOUT_WINDOWS
def test_continuations_side_by_side_see_their_prefix_and_themselves_alone(pair):
    generator = np.random.default_rng(1)
    prompts = generator.integers(0, 97, (2, 12)).astype(np.int32)
    prompt_lengths = np.array([12, 5], np.int32)
    rows = generator.integers(0, 97, (3, 14)).astype(np.int32)
    row_prefix, cuts = np.array([1, 0, 1]), [(0, 1, 9), (0, 14), (0, 5, 9, 12)]
    parts = [[s for s in np.split(np.arange(14), cut[1:]) if len(s)] for cut in cuts]
    segments = np.stack([np.repeat(np.arange(len(p)), [len(s) for s in p]) for p in parts])
    within = np.stack([np.concatenate([s - s[0] for s in p]) for p in parts])
    positions = prompt_lengths[row_prefix, None] + within
    spans = [(row, span) for row, p in enumerate(parts) for span in p]
    whole, lengths = np.zeros((len(spans), 26), np.int32), np.zeros(len(spans), np.int32)
    for line, (row, span) in enumerate(spans):
        start = prompt_lengths[row_prefix[row]]
        lengths[line] = start + len(span)
        whole[line, :start] = prompts[row_prefix[row], :start]
        whole[line, start : lengths[line]] = rows[row, span]

    @jax.jit
    def both(params):
        decoder = pair.policy.decoder(params)
        prefix = decoder(prompts, prompt_lengths, F32).kv
        packed = decoder.extend(rows, segments, positions, prefix, prompt_lengths, row_prefix, F32)
        return packed.hidden, decoder(whole, lengths, F32).hidden

    got, wanted = both(pair.params)
    for line, (row, span) in enumerate(spans):
        end = lengths[line]
        np.testing.assert_allclose(got[row, span], wanted[line, end - len(span) : end], atol=1e-5)


@pytest.mark.parametrize("pair", [("gemma3", True)], indirect=True, ids=["gemma3"])
def test_remat_changes_no_gradient(pair, tokenizer):
    tokens, lengths = jnp.arange(40).reshape(2, 20) % 97, jnp.array([20, 7])

    def gradient(remat):
        policy = make_policy(pair.policy.config, tokenizer, remat=remat)
        return jax.jit(jax.grad(lambda p: squares(policy, p, tokens, lengths)))(pair.params)

    kept = gradient("none")
    for name in ("layer", "dots"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
            kept,
            gradient(name),
        )


@WITH_AND_WITHOUT_WINDOWS
def test_remat_repeats_what_its_name_says(pair, tokenizer):
    config = pair.policy.config
    products = {
        name: products_in_gradient(make_policy(config, tokenizer, remat=name))
        for name in ("none", "layer", "dots")
    }
    # Both recompute attention, with two products. `layer` also recomputes q, k, v, o, gate and up,
    # and down if a norm reads its result.
    assert products["dots"] == products["none"] + 2
    assert products["layer"] == products["dots"] + 6 + config.sandwich_norms


def test_an_unknown_remat_is_refused(tokenizer):
    with pytest.raises(ValueError, match="remat='all' is not one of none, layer, dots"):
        make_policy(load_policy("tiny")[0].config, tokenizer, remat="all")


@WITH_AND_WITHOUT_WINDOWS
def test_the_program_does_not_grow_with_depth(pair, tokenizer):
    def lines(layers):
        config, sliding = pair.policy.config, pair.policy.config.sliding
        if sliding:
            slides = tuple(i % 6 != 5 for i in range(layers))
            sliding = dataclasses.replace(sliding, layers=slides)
        deep = dataclasses.replace(config, layers=layers, sliding=sliding)
        policy = make_policy(deep, tokenizer, remat="layer")
        ints = jax.ShapeDtypeStruct((2, 20), jnp.int32), jax.ShapeDtypeStruct((2,), jnp.int32)
        gradient = jax.jit(jax.grad(lambda *a: squares(policy, *a)))
        return gradient.lower(abstract_params(policy), *ints).as_text().count("\n")

    assert lines(4) == lines(32)


def test_a_folder_round_trip_is_bit_identical_and_opens_in_transformers(pair, tokenizer, tmp_path):
    hf.save_folder(tmp_path, pair.policy.config, pair.params, tokenizer)
    config, again = hf.load_folder(tmp_path)
    assert config == pair.policy.config
    jax.tree.map(np.testing.assert_array_equal, pair.params, again)
    reopened = type(pair.model).from_pretrained(tmp_path)
    mine, own = reopened.config, pair.model.config
    assert mine.max_position_embeddings == own.max_position_embeddings == 256
    assert mine.rope_parameters == own.rope_parameters
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.equal(reopened(tokens).logits, pair.model(tokens).logits)


@WITH_AND_WITHOUT_WINDOWS
def test_random_weights_have_the_loaded_ones_shapes(pair):
    shapes = jax.tree.map(np.shape, abstract_params(pair.policy))
    assert shapes == jax.tree.map(np.shape, pair.params)


@pytest.mark.parametrize("pair", [("gemma3", True)], indirect=True, ids=["gemma3"])
def test_a_centered_norm_starts_at_zero_that_its_scale_is_one(pair):
    drawn = random_params(pair.policy.config, seed=3)
    assert not np.any(drawn["final_norm"])
    assert not np.any(drawn["blocks"]["post_ffn_norm"])
    assert np.any(drawn["blocks"]["down"])


def test_the_tiny_policy_has_its_size():
    assert count_parameters(load_policy("tiny")[1]) == 754_816
