"""Rotary embeddings: angles by layer, and the turn itself."""

import jax
import jax.numpy as jnp

from selfreg.models.shape import DecoderConfig, LinearScaling, RopeScaling

Array = jax.Array


def rope_frequencies(config: DecoderConfig) -> Array:
    """Radians a position by which each pair of a head turns: float32 [L, head_dim / 2]."""
    half = config.head_dim // 2

    def unscaled(theta: float) -> Array:
        return theta ** (-jnp.arange(half, dtype=jnp.float32) / half)

    full = _stretch(unscaled(config.rope_theta), config.rope_scaling)
    if config.sliding is None:
        return jnp.broadcast_to(full, (config.layers, half))
    return jnp.where(jnp.array(config.slides)[:, None], unscaled(config.sliding.rope_theta), full)


def _stretch(frequency: Array, scaling: RopeScaling | LinearScaling | None) -> Array:
    if scaling is None:
        return frequency
    if isinstance(scaling, LinearScaling):
        return frequency / scaling.factor
    turns = scaling.original_positions * frequency / (2 * jnp.pi)
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    kept = jnp.clip((turns - low) / (high - low), 0.0, 1.0)
    return frequency * (kept + (1.0 - kept) / scaling.factor)


def rotate(x: Array, positions: Array, frequencies: Array) -> Array:
    """Rotary embedding (Su et al. 2021, arXiv:2104.09864), in halves as Hugging Face has it.

    Args:
      x: [B, T, heads, head_dim].
      positions: int32 [B, T].
      frequencies: float32 [head_dim / 2], radians a position.

    Returns:
      [B, T, heads, head_dim] in x's dtype.
    """
    half = x.shape[-1] // 2
    angle = positions[:, :, None, None].astype(jnp.float32) * frequencies
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    a, b = x[..., :half].astype(jnp.float32), x[..., half:].astype(jnp.float32)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)
