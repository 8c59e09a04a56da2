"""Checksums of arrays, computed where they lie: on their devices, however they are sharded."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

_PRIME, _GOLDEN = 1_000_003, 2_654_435_761
_WORDS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


def checksums(tree: Any) -> dict[str, int]:
    """The checksum of each array of a tree, by its path.

    sum_i m_i w_i mod 2^32, with w_i the bits of element i and m_i an odd number that depends on
    the element's place. A sum does not depend on the order of its terms, so that sharding does not
    change it. As m_i is odd, the sum differs wherever a single element differs.

    Args:
      tree: Arrays whose elements have 1, 2 or 4 bytes.
    """
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    leaves = [jnp.asarray(leaf) for _, leaf in paths]
    there = [index for index, leaf in enumerate(leaves) if _on_device(leaf)]
    sums: dict[int, Any] = dict(zip(there, _sums([leaves[i] for i in there]), strict=True))
    for index, leaf in enumerate(leaves):
        if index not in sums:  # offloaded, as they might not fit: one at a time
            kind = _default_memory(leaf)
            sums |= {index: _sums([jax.device_put(leaf, leaf.sharding.with_memory_kind(kind))])[0]}
    found = jax.device_get([sums[index] for index in range(len(leaves))])
    names = (jax.tree_util.keystr(path) for path, _ in paths)
    return {name: int(value) for name, value in zip(names, found, strict=True)}


def _default_memory(leaf: jax.Array) -> str:
    device: Any = next(iter(leaf.sharding.device_set))
    return device.default_memory().kind


def _on_device(leaf: jax.Array) -> bool:
    return leaf.sharding.memory_kind in (None, _default_memory(leaf))


@jax.jit
def _sums(leaves: list[jax.Array]) -> list[jax.Array]:
    return [_sum(leaf) for leaf in leaves]


def _sum(leaf: jax.Array) -> jax.Array:
    bits = leaf.astype(jnp.uint8) if leaf.dtype == jnp.bool_ else leaf
    words = lax.bitcast_convert_type(bits, _WORDS[bits.dtype.itemsize]).astype(jnp.uint32)
    place = jnp.zeros(leaf.shape, jnp.uint32)
    for axis in range(leaf.ndim):
        place = place * jnp.uint32(_PRIME) + lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
    mixed = place * jnp.uint32(_GOLDEN)
    return jnp.sum(words * ((mixed ^ (mixed >> 15)) | 1), dtype=jnp.uint32)
