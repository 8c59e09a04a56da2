"""A decoder-only transformer in Flax (nnx) with the Llama, Qwen2, Qwen3 and Gemma 3 architectures.

It has pre-norm blocks of RMSNorm, rotary grouped-query attention and SwiGLU (Touvron et al. 2023,
arXiv:2302.13971; Qwen2: arXiv:2407.10671). A config may add biases on q, k and v, norms of each
head's query and key (Qwen3: arXiv:2505.09388), and tie the head to the embedding. Gemma 3
(arXiv:2503.19786) adds norms after attention and FFN, GeGLU, scaled embeddings, and sliding-window
layers among the full ones.

The layers are stacked along a leading axis and scanned, so compile time does not grow with depth.
Per-layer differences are scanned with them. Weights keep Hugging Face's [out, in] layout. So
loading, saving and syncing copy bytes and never transpose, and `x @ w.T` is the faster product in
XLA on a CPU.

Weights are float32. `dtype` is the dtype that the layers compute in. Norms, rotary angles, the
attention's softmax and logits are always float32.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import AbstractMesh, Mesh

from selfreg.policy.mesh import constrain, constrain_weights, weight_shardings
from selfreg.policy.models.attention import KeyValue, Masks, attend, choose_attention, make_masks
from selfreg.policy.models.rope import Rotation, make_rotations, rotate
from selfreg.policy.models.shape import DecoderConfig
from selfreg.policy.models.sums import add_gradient

Array = jax.Array

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "silu": jax.nn.silu,
    "gelu_pytorch_tanh": partial(jax.nn.gelu, approximate=True),
}
# What is saved of a layer for the backward pass besides its input. None saves everything.
REMAT: dict[str, Callable[..., Any] | None] = {
    "none": None,
    "layer": jax.checkpoint_policies.nothing_saveable,
    # This recomputes the scores of the plain attention, whose size grows with the square of T.
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


# Logical axes of every weight by its name, without the leading layer axis of stacked blocks.
# selfreg.policy.mesh maps them to mesh axes.
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
    "post_attention_norm": ("embed",),
    "ffn_norm": ("embed",),
    "post_ffn_norm": ("embed",),
    "final_norm": ("embed",),
}
# The matrices of a block that LoRA adapts. An adapter is split like its matrix, but never by rank.
MATRICES = ("q", "k", "v", "o", "gate", "up", "down")
LOGICAL_AXES |= {f"{name}_a": ("rank", LOGICAL_AXES[name][1]) for name in MATRICES}
LOGICAL_AXES |= {f"{name}_b": (LOGICAL_AXES[name][0], "rank") for name in MATRICES}


def embed(config: DecoderConfig, table: Array, tokens: Array, dtype: jnp.dtype) -> Array:
    """Return the embeddings of tokens [B, T, D] in `dtype`, scaled if the config says so.

    Args:
      config: The decoder's shape.
      table: [V, D], or [copies, V, D] with one copy for each part of the rows.
      tokens: int32 [B, T].
      dtype: The dtype of the result.
    """
    look_up = partial(jnp.take, axis=0)
    if table.ndim == 2:
        x = look_up(table, tokens)
    else:
        parts = tokens.reshape(len(table), -1, *tokens.shape[1:])
        parts = constrain(parts, "copies", None, None)
        x = constrain(jax.vmap(look_up)(table, parts), "copies", None, None, "embed")
        x = x.reshape(*tokens.shape, -1)
    x = x.astype(dtype)
    # Like transformers, round the scale before multiplying: 55.4 becomes 55.5 in bfloat16.
    return x * jnp.asarray(config.width**0.5, dtype) if config.scaled_embedding else x


def pieces(config: DecoderConfig) -> dict[str, int]:
    """Return the number of indivisible pieces (heads) in each logical axis that has them."""
    return {"heads": config.heads, "kv_heads": config.kv_heads}


def layout(config: DecoderConfig, mesh: Mesh | AbstractMesh, tree: Any) -> Any:
    """Return the sharding of every leaf of a tree of a decoder's weights, adapters or moments."""
    return weight_shardings(mesh, tree, LOGICAL_AXES, pieces(config))


def rms_norm(config: DecoderConfig, x: Array, weight: Array) -> Array:
    """Return x / sqrt(mean(x^2) + eps) * scale over the last axis, in x's dtype.

    It computes in float32 (Zhang & Sennrich 2019, arXiv:1910.07467, equation 4). The scale is the
    weight, or 1 + weight if the config has centered norms. The 1 is added here, so weights stay as
    they are stored.
    """
    x32 = x.astype(jnp.float32)
    normed = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + config.norm_eps)
    scale = 1.0 + weight.astype(jnp.float32) if config.centered_norms else weight
    return (normed * scale).astype(x.dtype)


def linear(x: Array, weight: Array) -> Array:
    """Return x @ weight.T, with the weight [out, in] cast to x's dtype."""
    # The reshape makes this a product of two matrices, whose transposes XLA reads in place. With a
    # batch axis, XLA on a CPU would transpose the gradient inside the operation that computes it.
    rows = x.reshape(-1, x.shape[-1])
    y = jax.lax.dot_general(rows, weight.astype(x.dtype), (((1,), (1,)), ((), ())))
    return y.reshape(*x.shape[:-1], len(weight))


def linear_of_few(x: Array, weight: Array) -> Array:
    """Compute `linear` as weight @ x.T, which is faster for a few dozen rows on a CPU.

    XLA's CPU matrix product first packs its right operand into tiles. For few rows, packing the
    weight costs more than multiplying. The barrier keeps XLA from swapping the operands back.
    """
    columns = x.reshape(-1, x.shape[-1]).T
    y = jax.lax.optimization_barrier(weight.astype(x.dtype) @ columns)
    return y.T.reshape(*x.shape[:-1], len(weight))


class Block(nnx.Module):
    """One layer: x + attention(norm(x)), then x + ffn(norm(x)) with a gated FFN."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.adapter_scale = 0.0  # selfreg.policy.models.lora sets it and adds adapters
        self.linear = linear  # selfreg.policy.rollout.decode replaces it, because it has few rows
        width, head_dim = config.width, config.head_dim

        def weight(outputs: int, inputs: int) -> nnx.Param:
            # Normal(0, 0.02), like the families' own initializers.
            return nnx.Param(0.02 * jax.random.normal(rngs.params(), (outputs, inputs)))

        def norm(size: int) -> nnx.Param:
            return nnx.Param(jnp.zeros(size) if config.centered_norms else jnp.ones(size))

        self.q = weight(config.heads * head_dim, width)
        self.k = weight(config.kv_heads * head_dim, width)
        self.v = weight(config.kv_heads * head_dim, width)
        self.o = weight(width, config.heads * head_dim)
        self.gate = weight(config.ffn_width, width)
        self.up = weight(config.ffn_width, width)
        self.down = weight(width, config.ffn_width)
        self.attention_norm = norm(width)
        self.ffn_norm = norm(width)
        if config.sandwich_norms:
            self.post_attention_norm = norm(width)
            self.post_ffn_norm = norm(width)
        if config.qkv_bias:
            self.q_bias = nnx.Param(jnp.zeros(config.heads * head_dim))
            self.k_bias = nnx.Param(jnp.zeros(config.kv_heads * head_dim))
            self.v_bias = nnx.Param(jnp.zeros(config.kv_heads * head_dim))
        if config.qk_norm:
            self.q_norm = norm(head_dim)
            self.k_norm = norm(head_dim)

    def product(self, name: str, x: Array) -> Array:
        """Multiply x by the matrix of this name, and add its adapter's product if it has one."""
        matrix = getattr(self, name)[...]
        y = self.linear(x, matrix)
        if not self.adapter_scale:
            return y
        low = linear(x, getattr(self, f"{name}_a")[...])
        return y + self.adapter_scale * linear(low, getattr(self, f"{name}_b")[...])

    def query_key_value(self, x: Array, rotation: Rotation) -> tuple[Array, KeyValue]:
        """Return the rotated queries, and these tokens' rotated keys and values.

        Args:
          x: [B, T, D].
          rotation: The rotation of these tokens in a layer of this kind.

        Returns:
          Queries [B, T, heads, head_dim], and keys and values [B, T, kv_heads, head_dim].
        """
        config = self.config
        h = rms_norm(config, x, self.attention_norm[...])

        def project(name: str) -> Array:
            y = self.product(name, h)
            if config.qkv_bias:
                y = y + getattr(self, f"{name}_bias")[...].astype(y.dtype)
            name = "heads" if name == "q" else "kv_heads"
            y = y.reshape(*y.shape[:-1], pieces(config)[name], config.head_dim)
            return constrain(y, "rows", None, name, None)

        q = project("q")
        k = project("k")
        v = project("v")
        if config.qk_norm:
            q = rms_norm(config, q, self.q_norm[...])
            k = rms_norm(config, k, self.k_norm[...])
        return rotate(q, rotation), KeyValue(rotate(k, rotation), v)

    def finish(self, x: Array, attended: Array) -> Array:
        """Compute the rest of the layer from attention's output [B, T, heads * head_dim]."""
        config = self.config
        attended = self.product("o", attended)
        if config.sandwich_norms:
            attended = rms_norm(config, attended, self.post_attention_norm[...])
        x = x + attended
        h = rms_norm(config, x, self.ffn_norm[...])
        gated = ACTIVATIONS[config.activation](self.product("gate", h)) * self.product("up", h)
        fed = self.product("down", gated)
        if config.sandwich_norms:
            fed = rms_norm(config, fed, self.post_ffn_norm[...])
        return x + fed


class Layer(NamedTuple):
    """The inputs that `Decoder` scans over: those of one layer, or of all with a leading [L].

    Attributes:
      weights: The weights of a Block.
      prefix: Keys and values [N, P, kv_heads, head_dim] before the sequence, or None.
      slides: bool [], whether the layer has a sliding window.
      number: int32 [], the layer's index.
    """

    weights: dict[str, Array]
    prefix: KeyValue | None
    slides: Array
    number: Array


class States(NamedTuple):
    """A decoder's output.

    Attributes:
      hidden: Final-normed hidden states [B, T, D], in the dtype that the layers compute in.
      kv: All layers' keys and values [L, B, T, kv_heads, head_dim], of these tokens only.
      sums: The sums to pass on. See selfreg.policy.models.sums.
    """

    hidden: Array
    kv: KeyValue
    sums: Any


class Decoder(nnx.Module):
    """A decoder from tokens to hidden states. Callers apply the head where they need logits."""

    def __init__(
        self,
        config: DecoderConfig,
        *,
        rngs: nnx.Rngs,
        remat: str = "none",
        attention: str = "auto",
    ):
        """Initialize random weights.

        Args:
          config: The shape.
          rngs: The `params` stream seeds the weights.
          remat: What the backward pass recomputes: `none`, nothing; `layer`, everything except a
            layer's input; `dots`, everything except the products with weights.
          attention: As in `choose_attention`.

        Raises:
          ValueError: `remat` is not one of these.
        """
        if remat not in REMAT:
            raise ValueError(f"remat={remat!r} is not one of {', '.join(REMAT)}")
        self.config = config
        self.remat = remat
        self.attention = attention

        def table() -> nnx.Param:
            shape = (config.vocab_size, config.width)
            return nnx.Param(0.02 * jax.random.normal(rngs.params(), shape))

        self.embedding = table()
        ones = jnp.ones(config.width)
        self.final_norm = nnx.Param(ones - 1 if config.centered_norms else ones)
        if not config.tied_head:
            self.head = table()

        @nnx.split_rngs(splits=config.layers)
        @nnx.vmap(in_axes=(0,), out_axes=0)
        def stacked(rngs: nnx.Rngs) -> Block:
            return Block(config, rngs=rngs)

        self.blocks = stacked(rngs)

    @property
    def head_weight(self) -> Array:
        """The head's weight [V, D], which is the embedding if the head is tied."""
        return self.embedding[...] if self.config.tied_head else self.head[...]

    def __call__(self, tokens: Array, lengths: Array, dtype: jnp.dtype, sums: Any = None) -> States:
        """Run right-padded sequences from their start.

        Args:
          tokens: int32 [B, T].
          lengths: int32 [B], the number of tokens without padding.
          dtype: The dtype that the layers compute in.
          sums: Sums of gradients of the blocks' weights, with the same names and stacking. See
            selfreg.policy.models.sums. None: gradients go to the weights.

        Returns:
          States. `extend` takes their keys and values as its prefix.
        """
        steps = jnp.arange(tokens.shape[1])
        positions = jnp.broadcast_to(steps, tokens.shape)
        causal = steps[:, None] >= steps[None, :]
        # A padded query sees itself, because a softmax over no keys is undefined.
        seen = causal & ((steps < lengths[:, None])[:, None, :] | jnp.eye(len(steps), dtype=bool))
        masks = make_masks(seen, positions, positions, self.config.window)
        return self._scan(tokens, positions, masks, None, None, dtype, sums)

    def extend(
        self,
        tokens: Array,
        segments: Array,
        positions: Array,
        prefix: KeyValue,
        prefix_lengths: Array,
        row_prefix: Array,
        dtype: jnp.dtype,
        sums: Any = None,
    ) -> States:
        """Run continuations, packed in rows, of prefixes whose keys and values are known.

        A token sees its row's prefix, its own segment's earlier tokens, and itself.

        Args:
          tokens: int32 [B, T].
          segments: int32 [B, T], the continuation in its row that each token belongs to.
          positions: int32 [B, T], counted from the start of the prefix.
          prefix: [L, N, S, kv_heads, head_dim]. Rows may share a prefix.
          prefix_lengths: int32 [N], the number of prefix tokens without padding.
          row_prefix: int32 [B], the index of each row's prefix.
          dtype: The dtype that the layers compute in.
          sums: As in `__call__`.
        """
        steps = jnp.arange(tokens.shape[1])
        own = (segments[:, :, None] == segments[:, None]) & (steps[:, None] >= steps)
        before = jnp.arange(prefix.k.shape[2])
        known = before < prefix_lengths[row_prefix, None]
        known = jnp.broadcast_to(known[:, None], (*tokens.shape, len(before)))
        seen = jnp.concatenate([known, own], axis=-1)
        before = jnp.broadcast_to(before, (len(tokens), len(before)))
        key_positions = jnp.concatenate([before, positions], axis=1)
        masks = make_masks(seen, positions, key_positions, self.config.window)
        return self._scan(tokens, positions, masks, prefix, row_prefix, dtype, sums)

    def _scan(
        self,
        tokens: Array,
        positions: Array,
        masks: Masks,
        prefix: KeyValue | None,
        row_prefix: Array | None,
        dtype: jnp.dtype,
        sums: Any,
    ) -> States:
        config = self.config
        structure, weights = nnx.split(self.blocks)
        kind = choose_attention(self.attention, dtype, config.head_dim)
        rotations = make_rotations(config, positions)

        def layer(x: Array, this: Layer) -> tuple[Array, KeyValue]:
            block = nnx.merge(structure, this.weights)
            mask, rotation = masks.full, rotations.full
            if config.sliding is not None:
                mask, rotation = jax.tree.map(
                    partial(jnp.where, this.slides),
                    (masks.sliding, rotations.sliding), (mask, rotation),
                )  # fmt: skip
            q, own = block.query_key_value(x, rotation)
            seen = own
            if this.prefix is not None and row_prefix is not None:
                shared = jax.tree.map(lambda a: jnp.take(a, row_prefix, axis=0), this.prefix)
                seen = jax.tree.map(lambda a, b: jnp.concatenate([a, b], 1), shared, own)
            attended = attend(q, seen.k, seen.v, mask, scale=config.attention_scale, kind=kind)
            return constrain(block.finish(x, attended), "rows", None, None), own

        kept = REMAT[self.remat]
        # prevent_cse is not needed in a scan. Code outside of its body cannot share the
        # recomputation.
        body = layer if kept is None else jax.checkpoint(layer, policy=kept, prevent_cse=False)
        split = partial(constrain_weights, logical_axes=LOGICAL_AXES, pieces=pieces(config))

        def step(carry: tuple[Array, Any], this: Layer) -> tuple[tuple[Array, Any], KeyValue]:
            x, sums = carry
            if sums is not None:
                learn = {name: this.weights[name] for name in sums}
                learn, sums = add_gradient(split, learn, sums, this.number)
                this = this._replace(weights=this.weights | learn)
            x, own = body(x, this)
            return (x, sums), own

        stacked, numbers = nnx.to_pure_dict(weights), jnp.arange(config.layers)
        layers = Layer(stacked, prefix, jnp.array(config.slides), numbers)
        x = embed(config, self.embedding[...], tokens, dtype)
        # Each device looks up its own columns of the table, for its neighbours' rows too, and then
        # they exchange rows. This moves far less data than gathering the table.
        x = constrain(constrain(x, "copies", None, "embed"), "rows", None, None)
        (x, sums), kv = jax.lax.scan(step, (x, sums), layers)
        return States(rms_norm(config, x, self.final_norm[...]), kv, sums)
