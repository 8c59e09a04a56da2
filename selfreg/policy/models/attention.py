"""Grouped-query attention: masks, a plain implementation, and cuDNN's on NVIDIA GPUs."""

import re
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from selfreg.policy.mesh import device_in_force

Array = jax.Array


class KeyValue(NamedTuple):
    """Keys and values [B, S, kv_heads, head_dim] of one layer, or of all with a leading [L]."""

    k: Array
    v: Array


class Masks(NamedTuple):
    """Attention masks, bool [B or 1, T, S], True where a query sees a key.

    Attributes:
      full: The mask of layers with full attention.
      sliding: The mask of sliding-window layers.
    """

    full: Array
    sliding: Array


def make_masks(
    full: Array, query_positions: Array, key_positions: Array, window: int | None
) -> Masks:
    """Derive the mask of sliding-window layers from the mask of full-attention layers.

    Args:
      full: bool [B or 1, T, S].
      query_positions: int32 [B or 1, T].
      key_positions: int32 [B or 1, S].
      window: The number of positions that a sliding-window layer sees, the query's own included.
        None: all.
    """
    if window is None:
        return Masks(full, full)
    distance = query_positions[:, :, None] - key_positions[:, None, :]
    return Masks(full, full & (distance < window))


def choose_attention(name: str, dtype: Any, head_dim: int, device: Any = None) -> str:
    """Choose the attention implementation: `plain` or `cudnn`.

    Args:
      name: `plain`, `cudnn`, or `auto`, which takes cudnn if it can run and plain otherwise.
      dtype: The dtype that the layers compute in.
      head_dim: The size of a head.
      device: The device that will run it. None: that of `device_in_force`.

    Raises:
      ValueError: `name` is cudnn, and cudnn cannot run.
    """
    if name == "plain":
        return name
    lacking = _cudnn_lacks(jnp.dtype(dtype), head_dim, device or device_in_force())
    if name == "cudnn" and lacking:
        raise ValueError(
            f"config.model.attention='cudnn' {lacking}. Set it to 'auto', which uses 'plain' here"
        )
    return "plain" if lacking else "cudnn"


def _cudnn_lacks(dtype: jnp.dtype, head_dim: int, device: Any) -> str:
    """Return why cuDNN's flash attention cannot run, or an empty string if it can."""
    # AMD GPUs have the platform "gpu" too, but their compute capability is not such a number.
    capability = str(getattr(device, "compute_capability", ""))
    if device.platform != "gpu" or not re.fullmatch(r"\d+\.\d+", capability):
        return f"needs an NVIDIA GPU, but JAX runs on {device.platform}"
    if float(capability) < 8:
        return f"needs compute capability 8.0 or more, but this GPU's is {capability}"
    if dtype != jnp.bfloat16:
        return f"needs config.model.dtype=bfloat16, but it is {dtype}"
    most = 256 if float(capability) >= 9 else 128
    if head_dim > most or head_dim % 8:
        return f"needs a head_dim that is a multiple of 8 up to {most}, but it is {head_dim}"
    return ""


def attend(q: Array, k: Array, v: Array, mask: Array, *, scale: float, kind: str) -> Array:
    """Compute grouped-query attention: softmax(scale q k^T) v, with the softmax in float32.

    Args:
      q: [B, T, heads, head_dim].
      k: [B, S, kv_heads, head_dim].
      v: [B, S, kv_heads, head_dim].
      mask: bool [B or 1, T, S], True where a query sees a key. Every query must see at least one.
      scale: Factor on the products of queries and keys.
      kind: The result of `choose_attention`.

    Returns:
      [B, T, heads * head_dim].
    """
    if kind == "cudnn":
        return attend_fused(q, k, v, mask, scale=scale, implementation="cudnn")
    batch, length, heads, head_dim = q.shape
    kv_heads, keys = k.shape[2], k.shape[1]
    # Each key-value head is one product of two matrices, with the queries of all its heads stacked
    # as rows. With more axes, XLA would transpose the gradients of the scores on a CPU.
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
    """Compute `attend` with jax.nn.dot_product_attention.

    Its cuDNN kernel never holds all scores in memory.

    The whole mask is passed, and cuDNN turns it into one bias for all heads in q's dtype. cuDNN's
    own causal and window masks support neither prefixes of different lengths nor packed rows.

    Args:
      q: As in `attend`.
      k: As in `attend`.
      v: As in `attend`.
      mask: As in `attend`.
      scale: As in `attend`.
      implementation: `cudnn`, or `xla`, which runs the same call on any device.

    Returns:
      [B, T, heads * head_dim].
    """
    length = q.shape[1]

    # With a bias, cuDNN's backward pass supports only even lengths.
    def even(a: Array, *axes: int) -> Array:
        return jnp.pad(a, [(0, a.shape[i] % 2 if i in axes else 0) for i in range(a.ndim)])

    attended = jax.nn.dot_product_attention(
        even(q, 1), even(k, 1), even(v, 1), mask=even(mask, 1, 2)[:, None], scale=scale,
        implementation=implementation,
    )  # fmt: skip
    return attended[:, :length].reshape(*q.shape[:2], -1)


def attend_shared(q: Array, prefix: KeyValue, own: KeyValue, mask: Array, *, scale: float) -> Array:
    """Compute `attend` for one query per row, where adjacent rows share a prefix.

    Matrix products read each prefix once for all of its rows. The products with a row's own keys
    and values are written as elementwise products and sums. With one query per row they are bound
    by memory bandwidth, and XLA fuses them into one pass over the cache. On a CPU this is up to 1.5
    times faster than batched matrix products. The keys' last axis is the position, because that
    pass reads along it.

    Args:
      q: [B, heads, head_dim].
      prefix: Keys [N, kv_heads, head_dim, P] and values [N, kv_heads, P, head_dim]. Each prefix
        belongs to B / N adjacent rows.
      own: Keys [B, kv_heads, head_dim, C] and values [B, kv_heads, C, head_dim].
      mask: bool [B, P + C], the prefix first.
      scale: Factor on the products of queries and keys.

    Returns:
      [B, heads * head_dim].
    """
    batch, heads, head_dim = q.shape
    prefixes, kv_heads, _, length = prefix.k.shape
    float32 = partial(jnp.einsum, preferred_element_type=jnp.float32)
    grouped = q.reshape(batch, kv_heads, heads // kv_heads, head_dim)
    by_prefix = (prefixes, batch // prefixes, *grouped.shape[1:3], -1)
    # These products keep the prefix's axis order, [N, kv_heads, ...]. In the order of the rows, XLA
    # would put the prefix on the left, and copy it transposed at every token.
    before = float32("nwkrd,nkds->nkwrs", grouped.reshape(by_prefix), prefix.k).swapaxes(1, 2)
    after = jnp.sum(grouped[..., None].astype(jnp.float32) * own.k[:, :, None], axis=-2)
    scores = jnp.concatenate([before.reshape(*grouped.shape[:3], length), after], axis=-1)
    scores = jnp.where(mask[:, None, None], scores * scale, -1e30)
    weights = jax.nn.softmax(scores, axis=-1)
    first = weights[..., :length].reshape(by_prefix).astype(q.dtype)
    attended = float32("nwkrs,nksd->nkwrd", first, prefix.v).swapaxes(1, 2).reshape(grouped.shape)
    attended += jnp.sum(weights[..., length:, None] * own.v[:, :, None], axis=-2)
    return attended.reshape(batch, heads * head_dim).astype(q.dtype)
