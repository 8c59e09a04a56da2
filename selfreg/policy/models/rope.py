"""Rotary embeddings: the angles of each kind of layer, and the rotation."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from selfreg.policy.models.shape import DecoderConfig, LinearScaling, RopeScaling

Array = jax.Array


class Rotation(NamedTuple):
    """The rotation of every token: cosines and sines, float32 [B, T, head_dim / 2]."""

    cos: Array
    sin: Array


class Rotations(NamedTuple):
    """The rotations in each kind of layer. They differ if sliding layers have their own base."""

    full: Rotation
    sliding: Rotation


def make_rotations(config: DecoderConfig, positions: Array) -> Rotations:
    """Compute the rotations of both kinds of layers, once for all layers.

    If each layer computed them, XLA would recompute every angle's cosine and sine for every head.

    Args:
      config: The decoder's shape, which has the bases and the scaling.
      positions: int32 [B, T].
    """
    half = config.head_dim // 2

    def turn(theta: float, scaling: RopeScaling | LinearScaling | None) -> Rotation:
        # The angle in radians per position of each pair in a head.
        frequencies = _stretch(theta ** (-jnp.arange(half, dtype=jnp.float32) / half), scaling)
        angles = positions[..., None].astype(jnp.float32) * frequencies
        return Rotation(jnp.cos(angles), jnp.sin(angles))

    full = turn(config.rope_theta, config.rope_scaling)
    sliding = config.sliding
    return Rotations(full, full if sliding is None else turn(sliding.rope_theta, None))


def _stretch(frequency: Array, scaling: RopeScaling | LinearScaling | None) -> Array:
    if scaling is None:
        return frequency
    if isinstance(scaling, LinearScaling):
        return frequency / scaling.factor
    turns = scaling.original_positions * frequency / (2 * jnp.pi)
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    kept = jnp.clip((turns - low) / (high - low), 0.0, 1.0)
    return frequency * (kept + (1.0 - kept) / scaling.factor)


def rotate(x: Array, rotation: Rotation) -> Array:
    """Apply rotary embeddings (Su et al. 2021, arXiv:2104.09864) to the halves of each head.

    Like Hugging Face, this pairs element i with element i + head_dim / 2.

    Args:
      x: [B, T, heads, head_dim].
      rotation: The rotation of these tokens.

    Returns:
      [B, T, heads, head_dim] in x's dtype.
    """
    half = x.shape[-1] // 2
    cos, sin = rotation.cos[:, :, None], rotation.sin[:, :, None]
    a, b = x[..., :half].astype(jnp.float32), x[..., half:].astype(jnp.float32)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)
