"""Draw tokens from logits, with temperature, top-k and top-p, from one uniform number per row."""

import jax
import jax.numpy as jnp

from selfreg.run.records import Sampling

Array = jax.Array

# Columns per block of the two-level search. 128 divides the vocabularies of Qwen2.5 and SmolLM2.
BLOCK = 128


def allowed(logits: Array, sampling: Sampling) -> Array:
    """Return which tokens top-k and top-p keep.

    Top-k keeps the k likeliest tokens. Top-p (Holtzman et al. 2020, arXiv:1904.09751) keeps the
    smallest set of likeliest tokens whose probability reaches p. Tokens that tie with the last one
    are kept too.

    Args:
      logits: float32 [B, V], already divided by the temperature.
      sampling: The function reads its top_k and top_p.

    Returns:
      bool [B, V].
    """
    keep = jnp.ones(logits.shape, bool)
    if 0 < sampling.top_k < logits.shape[-1]:
        keep &= logits >= jax.lax.top_k(logits, sampling.top_k)[0][:, -1:]
    if sampling.top_p < 1:
        ranked = jnp.sort(jnp.where(keep, logits, -jnp.inf), axis=-1, descending=True)
        p = jax.nn.softmax(ranked, axis=-1)
        before = jnp.cumsum(p, axis=-1) - p
        last = jnp.sum(before < sampling.top_p, axis=-1, keepdims=True) - 1
        keep &= logits >= jnp.take_along_axis(ranked, last, axis=-1)
    return keep


def draw(logits: Array, uniform: Array, sampling: Sampling) -> tuple[Array, Array]:
    """Draw one token per row by inverting the cumulative distribution.

    This needs one uniform number per row, while Gumbel sampling needs one per token of the
    vocabulary. With 49,152 tokens, those random numbers alone would cost more than a layer. The
    search first finds a block of columns and then a column in it, so no cumulative sum over the
    whole vocabulary is needed.

    Args:
      logits: float32 [B, V], the model's logits, not divided by the temperature.
      uniform: float32 [B] in [0, 1).
      sampling: The temperature, top-k and top-p. Temperature 0 takes the likeliest token and
        returns its logprob at temperature 1.

    Returns:
      Token ids int32 [B], and their logprobs float32 [B] under log_softmax(logits / temperature),
      which top-k and top-p do not renormalize.
    """
    if sampling.temperature == 0:
        token = jnp.argmax(logits, axis=-1)
        return token.astype(jnp.int32), _take(jax.nn.log_softmax(logits), token)
    scaled = logits / sampling.temperature
    top = jnp.max(scaled, axis=-1, keepdims=True)
    weights = jnp.exp(scaled - top)
    total = jnp.sum(weights, axis=-1)
    if sampling.top_p < 1 or sampling.top_k:
        weights = jnp.where(allowed(scaled, sampling), weights, 0.0)

    padded = jnp.pad(weights, ((0, 0), (0, -weights.shape[-1] % BLOCK)))
    blocks = padded.reshape(len(padded), -1, BLOCK)
    ends = jnp.cumsum(jnp.sum(blocks, axis=-1), axis=-1)
    block, start = _search(ends, uniform * ends[:, -1])
    row = jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0]
    within, _ = _search(jnp.cumsum(row, axis=-1), uniform * ends[:, -1] - start)
    token = block * BLOCK + within
    return token.astype(jnp.int32), _take(scaled, token) - top[:, 0] - jnp.log(total)


def _search(ends: Array, target: Array) -> tuple[Array, Array]:
    """Return the first column whose end is above the target, and the end of the column before it.

    The target is clipped below the last end, so rounding can never select a column without weight.
    """
    target = jnp.clip(target, 0.0, ends[:, -1] * (1 - 1e-6))
    column = jnp.sum(ends <= target[:, None], axis=-1)
    before = jnp.where(column > 0, _take(ends, jnp.maximum(column - 1, 0)), 0.0)
    return column, before


def _take(table: Array, column: Array) -> Array:
    return jnp.take_along_axis(table, column[:, None], axis=-1)[:, 0]
