"""Grouped-query attention: which keys a query sees, a plain path, and cuDNN's on an NVIDIA GPU."""

import re
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from selfreg.policy.mesh import device_in_force

Array = jax.Array


class KeyValue(NamedTuple):
    """Keys and values of one layer [B, S, kv_heads, head_dim], or of all, with a leading [L]."""

    k: Array
    v: Array


class Masks(NamedTuple):
    """Which keys each query sees: bool [B or 1, T, S], True where it does.

    Attributes:
      full: In layers that see all that came before.
      sliding: In sliding-window layers.
    """

    full: Array
    sliding: Array


def make_masks(
    full: Array, query_positions: Array, key_positions: Array, window: int | None
) -> Masks:
    """Both kinds of layers' masks from that of the full ones.

    Args:
      full: bool [B or 1, T, S].
      query_positions: int32 [B or 1, T].
      key_positions: int32 [B or 1, S].
      window: Positions that a sliding-window layer sees, the query's own included; None: all.
    """
    if window is None:
        return Masks(full, full)
    distance = query_positions[:, :, None] - key_positions[:, None, :]
    return Masks(full, full & (distance < window))


def choose_attention(name: str, dtype: Any, head_dim: int, device: Any = None) -> str:
    """The way to attend: `plain` or `cudnn`.

    Args:
      name: `plain`, `cudnn`, or `auto`: cudnn where it can run, plain elsewhere.
      dtype: What the layers compute in.
      head_dim: Elements of a head.
      device: Where it will run; None: the mesh in force says it, see `device_in_force`.

    Raises:
      ValueError: cudnn is asked for where it cannot run.
    """
    if name == "plain":
        return name
    lacking = _cudnn_lacks(jnp.dtype(dtype), head_dim, device or device_in_force())
    if name == "cudnn" and lacking:
        raise ValueError(f"config.model.attention='cudnn' {lacking}; auto takes plain there")
    return "plain" if lacking else "cudnn"


def _cudnn_lacks(dtype: jnp.dtype, head_dim: int, device: Any) -> str:
    """Why cuDNN's flash attention cannot run here; empty where it can."""
    # AMD's GPUs call themselves gpu too, but have no such number.
    capability = str(getattr(device, "compute_capability", ""))
    if device.platform != "gpu" or not re.fullmatch(r"\d+\.\d+", capability):
        return f"needs an NVIDIA GPU, and JAX runs on {device.platform}"
    if float(capability) < 8:
        return f"needs compute capability 8.0 or more, and this GPU's is {capability}"
    if dtype != jnp.bfloat16:
        return f"computes in bfloat16, and config.model.dtype is {dtype}"
    most = 256 if float(capability) >= 9 else 128
    if head_dim > most or head_dim % 8:
        return f"takes heads of up to {most} here, in steps of 8, and this model's have {head_dim}"
    return ""


def attend(q: Array, k: Array, v: Array, mask: Array, *, scale: float, kind: str) -> Array:
    """Grouped-query attention: softmax(scale q k^T) v, softmax in float32.

    Args:
      q: [B, T, heads, head_dim].
      k: [B, S, kv_heads, head_dim].
      v: [B, S, kv_heads, head_dim].
      mask: bool [B or 1, T, S], True where a query sees a key; every query must see one.
      scale: Of the products of queries and keys.
      kind: As `choose_attention` returns it.

    Returns:
      [B, T, heads * head_dim].
    """
    if kind == "cudnn":
        return attend_fused(q, k, v, mask, scale=scale, implementation="cudnn")
    batch, length, heads, head_dim = q.shape
    kv_heads, keys = k.shape[2], k.shape[1]
    # Each product is of two matrices a key-value head, all its queries below each other: of more
    # axes XLA transposes the gradients of scores on a CPU.
    grouped = q.reshape(batch, length, kv_heads, -1, head_dim).transpose(0, 2, 3, 1, 4)
    grouped = grouped.reshape(batch, kv_heads, -1, head_dim)
    k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)
    scores = jnp.einsum("bkqd,bksd->bkqs", grouped, k, preferred_element_type=jnp.float32)
    by_head = scores.reshape(batch, kv_heads, -1, length, keys)
    by_head = jnp.where(mask[:, None, None], by_head * scale, -1e30)
    weights = jax.nn.softmax(by_head.reshape(scores.shape), axis=-1).astype(q.dtype)
    attended = jnp.einsum("bkqs,bksd->bkqd", weights, v)
    attended = attended.reshape(batch, kv_heads, -1, length, head_dim).transpose(0, 3, 1, 2, 4)
    return attended.reshape(batch, length, heads * head_dim)


def attend_fused(
    q: Array, k: Array, v: Array, mask: Array, *, scale: float, implementation: Any
) -> Array:
    """`attend` through jax.nn.dot_product_attention, whose cuDNN kernel never holds all scores.

    The mask goes in whole, as the bias that cuDNN makes of it: one for all heads, in q's dtype.
    cuDNN's own causal and window masks know neither prefixes of many lengths nor packed rows.

    Args:
      q: As in `attend`.
      k: As in `attend`.
      v: As in `attend`.
      mask: As in `attend`.
      scale: As in `attend`.
      implementation: `cudnn`, or `xla` to run the same call anywhere.

    Returns:
      [B, T, heads * head_dim].
    """
    length = q.shape[1]

    # With a bias, cuDNN's backward pass takes even lengths only.
    def even(a: Array, *axes: int) -> Array:
        return jnp.pad(a, [(0, a.shape[i] % 2 if i in axes else 0) for i in range(a.ndim)])

    attended = jax.nn.dot_product_attention(
        even(q, 1), even(k, 1), even(v, 1), mask=even(mask, 1, 2)[:, None], scale=scale,
        implementation=implementation,
    )  # fmt: skip
    return attended[:, :length].reshape(*q.shape[:2], -1)


def attend_shared(q: Array, prefix: KeyValue, own: KeyValue, mask: Array, *, scale: float) -> Array:
    """`attend` for one query a row, of rows side by side that share a prefix.

    The prefix is read once for all of its rows, by matrix products. Those with a row's own keys and
    values are written out: with one query a row they move bytes and compute little, and XLA fuses
    them into one pass over the cache, up to 1.5 times faster on a CPU than its batched matrix
    products. Keys lie with their positions last, which that pass reads along.

    Args:
      q: [B, heads, head_dim].
      prefix: Keys [N, kv_heads, head_dim, P] and values [N, kv_heads, P, head_dim], each of B / N
        rows side by side.
      own: Keys [B, kv_heads, head_dim, C] and values [B, kv_heads, C, head_dim].
      mask: bool [B, P + C], the prefix first.
      scale: Of the products of queries and keys.

    Returns:
      [B, heads * head_dim].
    """
    batch, heads, head_dim = q.shape
    prefixes, kv_heads, _, length = prefix.k.shape
    float32 = partial(jnp.einsum, preferred_element_type=jnp.float32)
    grouped = q.reshape(batch, kv_heads, heads // kv_heads, head_dim)
    by_prefix = (prefixes, batch // prefixes, *grouped.shape[1:3], -1)
    # Their products keep the order of the prefix, [N, kv_heads, ...]: in the order of the rows XLA
    # puts the prefix on the left, and copies it transposed at every token.
    before = float32("nwkrd,nkds->nkwrs", grouped.reshape(by_prefix), prefix.k).swapaxes(1, 2)
    after = jnp.sum(grouped[..., None].astype(jnp.float32) * own.k[:, :, None], axis=-2)
    scores = jnp.concatenate([before.reshape(*grouped.shape[:3], length), after], axis=-1)
    scores = jnp.where(mask[:, None, None], scores * scale, -1e30)
    weights = jax.nn.softmax(scores, axis=-1)
    first = weights[..., :length].reshape(by_prefix).astype(q.dtype)
    attended = float32("nwkrs,nksd->nkwrd", first, prefix.v).swapaxes(1, 2).reshape(grouped.shape)
    attended += jnp.sum(weights[..., length:, None] * own.v[:, :, None], axis=-2)
    return attended.reshape(batch, heads * head_dim).astype(q.dtype)
