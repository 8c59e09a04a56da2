"""Adam with low-precision moments.

A moment is a slow average. With b2 = 0.999, the second moment decays by a thousandth of itself per
step. That is at most a quarter of bfloat16's spacing, so rounding to nearest would undo every
decay. Moments are therefore rounded stochastically, to one of the two representable neighbours with
probabilities that make the mean exact. The stored moment follows the true one in the mean, and its
noise averages out over the 1 / (1 - b) steps that the moment remembers.

An 8-bit moment is divided into blocks along its last axis. Each block has one float32 scale, its
largest magnitude (Dettmers et al. 2022, arXiv:2110.02861, section 2.1), so an outlier spoils only
its own block. Codes are spaced logarithmically, 12 per octave. This makes the relative error equal
for all magnitudes, which suits Adam's quotient of two moments. A nonzero second moment never rounds
to zero, because that would turn the quotient into a huge step.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

Array = jax.Array

LEVELS_PER_OCTAVE = 12
LARGEST_BLOCK = 128
SHARDS = 8  # a mesh that splits an axis 2, 4 or 8 ways never cuts through a block


class Blocks(NamedTuple):
    """A moment in 8 bits.

    Attributes:
      codes: int8 (signed) or uint8 [..., D]. Code 0 is zero and the highest code is the block's
        scale. Each code below it is a twelfth of an octave smaller.
      scales: float32 [..., D / block], the largest magnitude of each block.
    """

    codes: Array
    scales: Array


class Storage(NamedTuple):
    """How a moment is stored between updates.

    Attributes:
      encode: (float32 [...], random uint32 [...] below 2^16) -> the stored form.
      decode: The stored form -> float32 [...].
    """

    encode: Callable[[Array, Array], Any]
    decode: Callable[[Any], Array]


def block_size(axis: int) -> int:
    """Return the number of elements that share a scale.

    It is the largest divisor, up to 128, of axis / gcd(axis, 8). So a block fits into each part of
    an axis that a mesh splits up to 8 ways.
    """
    part = axis // math.gcd(axis, SHARDS)
    return max(size for size in range(1, min(part, LARGEST_BLOCK) + 1) if part % size == 0)


def _random_bits(seed: Array, shape: tuple[int, ...]) -> Array:
    """Return uint32 hashes of the elements' positions, from murmur3's finalizer.

    Each hash depends only on the seed and the element's position, so any mesh can split the
    computation. threefry would cost more than the rest of the update, and rounding does not need
    its quality.
    """
    place, stride = jnp.zeros(shape, jnp.uint32), 1
    for axis in reversed(range(len(shape))):
        steps = jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
        place, stride = place + steps * jnp.uint32(stride % 2**32), stride * shape[axis]
    x = place * jnp.uint32(0x9E3779B9) + seed
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def _to_bfloat16(x: Array, random: Array) -> Array:
    """Round to bfloat16 stochastically.

    bfloat16 is the upper half of float32's bits. Adding 16 random bits carries into the upper half
    with the right probability.
    """
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32) + random
    return jax.lax.bitcast_convert_type((bits >> 16).astype(jnp.uint16), jnp.bfloat16)


def _to_blocks(x: Array, random: Array, *, top: int, signed: bool) -> Blocks:
    """Encode in codes from -top to top if signed, and from 0 to top otherwise."""
    shape = (*x.shape[:-1], -1, block_size(x.shape[-1]))
    x, random = x.reshape(shape), random.reshape(shape)
    scales = jnp.max(jnp.abs(x), axis=-1, keepdims=True)
    ratio = jnp.abs(x) / jnp.where(scales > 0, scales, 1.0)
    below = jnp.clip(jnp.floor(top + LEVELS_PER_OCTAVE * jnp.log2(ratio)), 0, top)
    low = _level(below, top)
    high = jnp.where(below > 0, low * 2 ** (1 / LEVELS_PER_OCTAVE), _level(jnp.ones(()), top))
    up = random < (ratio - low) / (high - low) * 2**16
    codes = jnp.minimum(below + up, top)
    codes = jnp.sign(x) * codes if signed else jnp.maximum(codes, ratio > 0)
    dtype = jnp.int8 if signed else jnp.uint8
    return Blocks(codes.reshape(*shape[:-2], -1).astype(dtype), scales[..., 0])


def _level(code: Array, top: int) -> Array:
    """Return the magnitude of a code in a block whose scale is 1."""
    return jnp.where(code > 0, jnp.exp2((code - top) / LEVELS_PER_OCTAVE), 0.0)


def _from_blocks(stored: Blocks, *, top: int) -> Array:
    codes = stored.codes.astype(jnp.float32).reshape(*stored.scales.shape, -1)
    values = jnp.sign(codes) * _level(jnp.abs(codes), top) * stored.scales[..., None]
    return values.reshape(stored.codes.shape)


def _blocks(top: int, signed: bool) -> Storage:
    return Storage(
        lambda x, random: _to_blocks(x, random, top=top, signed=signed),
        lambda stored: _from_blocks(stored, top=top),
    )


BFLOAT16 = Storage(_to_bfloat16, lambda stored: stored.astype(jnp.float32))
INT8, UINT8 = _blocks(127, signed=True), _blocks(255, signed=False)

FLOAT32 = Storage(lambda x, random: x, lambda stored: stored)

# The storage of the first and of the second moment.
STORAGE = {"float32": (FLOAT32, FLOAT32), "bfloat16": (BFLOAT16, BFLOAT16), "int8": (INT8, UINT8)}


def scale_by_adam(b1: float, b2: float, eps: float, dtype: str) -> optax.GradientTransformation:
    """Return Adam (Kingma & Ba 2015, arXiv:1412.6980, algorithm 1) with moments stored in `dtype`.

    Each step is computed in float32, from the new moments before they are rounded, one layer of a
    stack at a time. The random bits of the rounding depend only on the number of updates and on the
    weight's position in the tree. They are the same on every mesh, so a resumed run rounds exactly
    like one that never stopped.

    Args:
      b1: Decay of the first moment.
      b2: Decay of the second moment.
      eps: Added to the square root of the second moment.
      dtype: float32 (8 bytes per weight for both moments), bfloat16 (4 bytes) or int8 (2 bytes, and
        8 bytes per block).

    Returns:
      The transformation. Its state is an optax.ScaleByAdamState. With int8, the moments in it are
      Blocks.
    """
    first, second = STORAGE[dtype]
    plain = optax.scale_by_adam(b1=b1, b2=b2, eps=eps)

    def init(params: optax.Params) -> optax.ScaleByAdamState:
        # Every storage encodes zero as zeros. XLA would take seconds to fold the encoding of zeros.
        def zeros(storage: Storage) -> Any:
            def coded(p: Array) -> Any:
                return storage.encode(jnp.zeros(p.shape), jnp.zeros(p.shape, jnp.uint32))

            stored = jax.eval_shape(partial(jax.tree.map, coded), params)
            return jax.tree.map(jnp.zeros_like, stored)

        return optax.ScaleByAdamState(jnp.zeros([], jnp.int32), zeros(first), zeros(second))

    def update(
        gradient: optax.Updates, state: optax.ScaleByAdamState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.ScaleByAdamState]:
        if dtype == "float32":
            return plain.update(gradient, state, params)
        count = optax.safe_increment(state.count)
        key = jax.random.fold_in(jax.random.key(0), count)

        def step(g: Array, mu: Any, nu: Any, seed: Array) -> tuple[Array, Any, Any]:
            random = _random_bits(seed, g.shape)
            m = b1 * first.decode(mu) + (1 - b1) * g
            v = b2 * second.decode(nu) + (1 - b2) * g * g
            moved = m / (1 - b1**count) / (jnp.sqrt(v / (1 - b2**count)) + eps)
            return moved, first.encode(m, random & 0xFFFF), second.encode(v, random >> 16)

        def leaf(place: int, g: Array, mu: Any, nu: Any) -> tuple[Array, Any, Any]:
            here = jax.random.fold_in(key, place)
            # Encoding needs three or more float32 arrays: of one layer, not of all layers.
            if g.ndim > 2:
                return in_place((g, mu, nu), jax.random.bits(here, g.shape[:1], jnp.uint32))
            # Without the barrier, XLA may decode the moments before the gradient is known. They
            # would then take memory beside the activations.
            g, mu, nu = jax.lax.optimization_barrier((g, mu, nu))
            return step(g, mu, nu, jax.random.bits(here, dtype=jnp.uint32))

        def in_place(held: tuple[Array, Any, Any], seeds: Array) -> Any:
            """Apply `step` to each layer, and write the result in the layer's place."""

            def layer(index: Array, held: tuple[Array, Any, Any]) -> Any:
                def put(stack: Array, new: Array) -> Array:
                    return jax.lax.dynamic_update_index_in_dim(stack, new, index, 0)

                take = partial(jax.lax.dynamic_index_in_dim, index=index, keepdims=False)
                g, mu, nu = jax.tree.map(take, held)
                return jax.tree.map(put, held, step(g, mu, nu, seeds[index]))

            return jax.lax.fori_loop(0, len(seeds), layer, held)

        places = jax.tree.unflatten(
            jax.tree.structure(gradient), range(len(jax.tree.leaves(gradient)))
        )
        leaves = jax.tree.map(leaf, places, gradient, state.mu, state.nu)

        def column(index: int) -> Any:
            return jax.tree.map(lambda _, parts: parts[index], gradient, leaves)

        return column(0), optax.ScaleByAdamState(count, column(1), column(2))

    return optax.GradientTransformation(init, update)
