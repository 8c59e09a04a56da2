"""A decoder-only transformer in Flax (nnx): the Llama, Qwen2 and Qwen3 shapes by config.

Pre-norm blocks of RMSNorm, rotary grouped-query attention and SwiGLU (Touvron et al. 2023,
arXiv:2302.13971; Qwen2: arXiv:2407.10671), with optional biases on q, k, v, optional norms of each
head's query and key (Qwen3: arXiv:2505.09388) and a tied or untied head. The layers are stacked
along a leading axis and scanned, so that compile time does not grow with depth. Weights keep
Hugging Face's [out, in] layout: loading, saving and syncing copy bytes and never transpose, and on
a CPU `x @ w.T` is XLA's faster product.

Weights are float32; `dtype` is what the layers compute in. Norms, rotary angles, attention weights
and logits are always float32.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from selfreg.mesh import constrain

Array = jax.Array


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """How Llama 3.1 stretches rotary angles to longer contexts (arXiv:2407.21783, section 3.2).

    Wavelengths above `original_positions / low_frequency_factor` are stretched by `factor`, those
    below `original_positions / high_frequency_factor` are kept, and those between are blended.
    """

    factor: float
    low_frequency_factor: float
    high_frequency_factor: float
    original_positions: int


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """The shape of a decoder. Sizes are counts of elements."""

    vocab_size: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn_width: int
    rope_theta: float
    norm_eps: float
    qkv_bias: bool
    tied_head: bool
    qk_norm: bool = False
    rope_scaling: RopeScaling | None = None

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads:
            raise ValueError(f"heads={self.heads} must be a multiple of kv_heads={self.kv_heads}")
        if self.head_dim % 2:
            raise ValueError(f"head_dim={self.head_dim} must be even: rotary angles turn pairs")


class KeyValue(NamedTuple):
    """Keys and values of one layer [B, S, kv_heads, head_dim], or of all, with a leading [L]."""

    k: Array
    v: Array


# Logical axes of every weight by its name, without the leading layer axis of stacked blocks;
# selfreg.mesh maps them to the mesh.
LOGICAL_AXES: dict[str, tuple[str, ...]] = {
    "embedding": ("vocab", "embed"),
    "head": ("vocab", "embed"),
    "q": ("heads", "embed"),
    "k": ("kv_heads", "embed"),
    "v": ("kv_heads", "embed"),
    "o": ("embed", "heads"),
    "q_bias": ("heads",),
    "k_bias": ("kv_heads",),
    "v_bias": ("kv_heads",),
    "q_norm": ("head_dim",),
    "k_norm": ("head_dim",),
    "gate": ("ffn", "embed"),
    "up": ("ffn", "embed"),
    "down": ("embed", "ffn"),
    "attention_norm": ("embed",),
    "ffn_norm": ("embed",),
    "final_norm": ("embed",),
}


def pieces(config: DecoderConfig) -> dict[str, int]:
    """How many pieces a logical axis has that devices must not share: whole heads."""
    return {"heads": config.heads, "kv_heads": config.kv_heads}


def rms_norm(x: Array, scale: Array, eps: float) -> Array:
    """X / sqrt(mean(x^2) + eps) * scale over the last axis, in float32, returned in x's dtype."""
    x32 = x.astype(jnp.float32)
    normed = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + eps)
    return (normed * scale).astype(x.dtype)


def rope_frequencies(config: DecoderConfig) -> Array:
    """Radians a position by which each pair of a head turns: float32 [head_dim / 2]."""
    half = config.head_dim // 2
    frequency = config.rope_theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    scaling = config.rope_scaling
    if scaling is None:
        return frequency
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


def attend(q: Array, k: Array, v: Array, mask: Array) -> Array:
    """Grouped-query attention: softmax(q k^T / sqrt(head_dim)) v, softmax in float32.

    Args:
      q: [B, T, heads, head_dim].
      k: [B, S, kv_heads, head_dim].
      v: [B, S, kv_heads, head_dim].
      mask: bool [B, T, S], True where a query sees a key; every query must see one.

    Returns:
      [B, T, heads * head_dim].
    """
    batch, length, heads, head_dim = q.shape
    grouped = q.reshape(batch, length, k.shape[2], heads // k.shape[2], head_dim)
    scores = jnp.einsum("btkrd,bskd->bkrts", grouped, k, preferred_element_type=jnp.float32)
    scores = jnp.where(mask[:, None, None], scores * head_dim**-0.5, -1e30)
    weights = jax.nn.softmax(scores, axis=-1).astype(q.dtype)
    return jnp.einsum("bkrts,bskd->btkrd", weights, v).reshape(batch, length, heads * head_dim)


def attend_one(q: Array, k: Array, v: Array, mask: Array) -> Array:
    """`attend` for one query a row against a decoding cache.

    The products are written out, not as dots: with one query a row they move bytes and compute
    little, and XLA fuses them into one pass over the cache, about 1.5 times faster on a CPU than
    its batched matrix products. Keys lie with their positions last, which that pass reads along.

    Args:
      q: [B, heads, head_dim].
      k: [B, kv_heads, head_dim, S].
      v: [B, kv_heads, S, head_dim].
      mask: bool [B, S].

    Returns:
      [B, heads * head_dim].
    """
    batch, heads, head_dim = q.shape
    grouped = q.reshape(batch, k.shape[1], heads // k.shape[1], head_dim, 1).astype(jnp.float32)
    scores = jnp.sum(grouped * k[:, :, None], axis=-2)
    scores = jnp.where(mask[:, None, None], scores * head_dim**-0.5, -1e30)
    weights = jax.nn.softmax(scores, axis=-1)[..., None]
    return (
        jnp.sum(weights * v[:, :, None], axis=-2).reshape(batch, heads * head_dim).astype(q.dtype)
    )


def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """X @ weight.T (+ bias), the weight [out, in] cast to x's dtype."""
    y = jax.lax.dot_general(x, weight.astype(x.dtype), (((x.ndim - 1,), (1,)), ((), ())))
    return y if bias is None else y + bias.astype(x.dtype)


class Block(nnx.Module):
    """One layer: x + attention(norm(x)), then x + swiglu(norm(x))."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        width, head_dim = config.width, config.head_dim

        def weight(outputs: int, inputs: int) -> nnx.Param:
            # Normal(0, 0.02), as the families' own initializers.
            return nnx.Param(0.02 * jax.random.normal(rngs.params(), (outputs, inputs)))

        self.q = weight(config.heads * head_dim, width)
        self.k = weight(config.kv_heads * head_dim, width)
        self.v = weight(config.kv_heads * head_dim, width)
        self.o = weight(width, config.heads * head_dim)
        self.gate = weight(config.ffn_width, width)
        self.up = weight(config.ffn_width, width)
        self.down = weight(width, config.ffn_width)
        self.attention_norm = nnx.Param(jnp.ones(width))
        self.ffn_norm = nnx.Param(jnp.ones(width))
        if config.qkv_bias:
            self.q_bias = nnx.Param(jnp.zeros(config.heads * head_dim))
            self.k_bias = nnx.Param(jnp.zeros(config.kv_heads * head_dim))
            self.v_bias = nnx.Param(jnp.zeros(config.kv_heads * head_dim))
        if config.qk_norm:
            self.q_norm = nnx.Param(jnp.ones(head_dim))
            self.k_norm = nnx.Param(jnp.ones(head_dim))

    def query_key_value(self, x: Array, positions: Array) -> tuple[Array, KeyValue]:
        """Rotated queries [B, T, heads, head_dim] and this layer's own keys and values."""
        config = self.config
        h = rms_norm(x, self.attention_norm[...], config.norm_eps)

        def project(weight: nnx.Param, bias: nnx.Param | None, name: str) -> Array:
            y = linear(h, weight[...], None if bias is None else bias[...])
            y = y.reshape(*y.shape[:-1], pieces(config)[name], config.head_dim)
            return constrain(y, "rows", None, name, None)

        biases = (self.q_bias, self.k_bias, self.v_bias) if config.qkv_bias else (None,) * 3
        q = project(self.q, biases[0], "heads")
        k = project(self.k, biases[1], "kv_heads")
        v = project(self.v, biases[2], "kv_heads")
        if config.qk_norm:
            q = rms_norm(q, self.q_norm[...], config.norm_eps)
            k = rms_norm(k, self.k_norm[...], config.norm_eps)
        frequencies = rope_frequencies(config)
        return rotate(q, positions, frequencies), KeyValue(rotate(k, positions, frequencies), v)

    def finish(self, x: Array, attended: Array) -> Array:
        """The rest of the layer, given what attention returned [B, T, heads * head_dim]."""
        x = x + linear(attended, self.o[...])
        h = rms_norm(x, self.ffn_norm[...], self.config.norm_eps)
        gated = jax.nn.silu(linear(h, self.gate[...])) * linear(h, self.up[...])
        return x + linear(gated, self.down[...])


class Decoder(nnx.Module):
    """Tokens to hidden states; the head is applied by whoever needs logits, and only where."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs, remat: bool = False):
        """Random weights.

        Args:
          config: The shape.
          rngs: Its `params` stream seeds the weights.
          remat: Recompute each layer in the backward pass and keep only its input.
        """
        self.config = config
        self.remat = remat

        def table() -> nnx.Param:
            shape = (config.vocab_size, config.width)
            return nnx.Param(0.02 * jax.random.normal(rngs.params(), shape))

        self.embedding = table()
        self.final_norm = nnx.Param(jnp.ones(config.width))
        if not config.tied_head:
            self.head = table()

        @nnx.split_rngs(splits=config.layers)
        @nnx.vmap(in_axes=(0,), out_axes=0)
        def stacked(rngs: nnx.Rngs) -> Block:
            return Block(config, rngs=rngs)

        self.blocks = stacked(rngs)

    @property
    def head_weight(self) -> Array:
        """The head's weight [V, D]: the embedding when tied."""
        return self.embedding[...] if self.config.tied_head else self.head[...]

    def __call__(self, tokens: Array, lengths: Array, dtype: jnp.dtype) -> tuple[Array, KeyValue]:
        """Run right-padded sequences from their start.

        Args:
          tokens: int32 [B, T].
          lengths: int32 [B], tokens that are not padding.
          dtype: What the layers compute in.

        Returns:
          Final-normed hidden states [B, T, D] in `dtype`, and all layers' keys and values
          [L, B, T, kv_heads, head_dim], which `extend` takes as its prefix.
        """
        steps = jnp.arange(tokens.shape[1])
        positions = jnp.broadcast_to(steps, tokens.shape)
        causal = steps[:, None] >= steps[None, :]
        # A padded query sees itself, so that no softmax is empty.
        mask = causal & ((steps < lengths[:, None])[:, None, :] | jnp.eye(len(steps), dtype=bool))
        return self._scan(tokens, positions, mask, None, dtype)

    def extend(
        self, tokens: Array, prefix: KeyValue, prefix_lengths: Array, dtype: jnp.dtype
    ) -> Array:
        """Run right-padded continuations of prefixes whose keys and values are known.

        Args:
          tokens: int32 [B, T].
          prefix: [L, N, P, kv_heads, head_dim] with B a multiple of N: rows i * B/N and on share
            prefix i. This is how a group shares its prompt.
          prefix_lengths: int32 [N], the prefix tokens that are not padding.
          dtype: What the layers compute in.

        Returns:
          Final-normed hidden states [B, T, D] in `dtype`.
        """
        group = tokens.shape[0] // prefix_lengths.shape[0]
        lengths = jnp.repeat(prefix_lengths, group)
        steps = jnp.arange(tokens.shape[1])
        positions = lengths[:, None] + steps
        causal = jnp.broadcast_to(
            steps[:, None] >= steps, (tokens.shape[0], len(steps), len(steps))
        )
        seen = jnp.arange(prefix.k.shape[2]) < lengths[:, None]
        seen = jnp.broadcast_to(seen[:, None], (*tokens.shape, prefix.k.shape[2]))
        mask = jnp.concatenate([seen, causal], axis=-1)
        return self._scan(tokens, positions, mask, prefix, dtype)[0]

    def _scan(
        self,
        tokens: Array,
        positions: Array,
        mask: Array,
        prefix: KeyValue | None,
        dtype: jnp.dtype,
    ) -> tuple[Array, KeyValue]:
        structure, weights = nnx.split(self.blocks)

        def layer(x: Array, scanned: tuple[nnx.State, KeyValue | None]) -> tuple[Array, KeyValue]:
            block = nnx.merge(structure, scanned[0])
            q, own = block.query_key_value(x, positions)
            seen = own
            if scanned[1] is not None:
                group = x.shape[0] // scanned[1].k.shape[0]
                shared = jax.tree.map(lambda a: jnp.repeat(a, group, axis=0), scanned[1])
                seen = jax.tree.map(lambda a, b: jnp.concatenate([a, b], 1), shared, own)
            x = block.finish(x, attend(q, seen.k, seen.v, mask))
            return constrain(x, "rows", None, None), own

        body = jax.checkpoint(layer) if self.remat else layer
        x = jnp.take(self.embedding[...], tokens, axis=0).astype(dtype)
        # A device looks up the columns that it holds, for its neighbours' rows too; then the rows
        # change hands. Far less moves than if the table did.
        x = constrain(constrain(x, "copies", None, "embed"), "rows", None, None)
        x, kv = jax.lax.scan(body, x, (weights, prefix))
        return rms_norm(x, self.final_norm[...], self.config.norm_eps), kv
