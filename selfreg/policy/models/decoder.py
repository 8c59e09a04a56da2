"""A decoder-only transformer in Flax (nnx): the Llama, Qwen2, Qwen3 and Gemma 3 shapes by config.

Pre-norm blocks of RMSNorm, rotary grouped-query attention and SwiGLU (Touvron et al. 2023,
arXiv:2302.13971; Qwen2: arXiv:2407.10671), with optional biases on q, k, v, optional norms of each
head's query and key (Qwen3: arXiv:2505.09388) and a tied or untied head. Gemma 3 (arXiv:2503.19786)
adds norms behind attention and FFN, GeGLU, scaled embeddings, and sliding-window layers among the
full ones. selfreg.policy.models.block is one layer. The layers are stacked along a leading axis and
scanned, so that compile time does not grow with depth; anything that differs from layer to layer is
scanned with them. Weights keep Hugging Face's [out, in] layout: loading, saving and syncing copy
bytes and never transpose, and on a CPU `x @ w.T` is XLA's faster product.

Weights are float32; `dtype` is what the layers compute in. Norms, rotary angles, attention weights
and logits are always float32.
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
from selfreg.policy.models.block import Block, rms_norm
from selfreg.policy.models.rope import make_rotations
from selfreg.policy.models.shape import DecoderConfig
from selfreg.policy.models.sums import add_gradient

Array = jax.Array

# The values of a layer that the backward pass finds besides its input; None for all of them.
REMAT: dict[str, Callable[..., Any] | None] = {
    "none": None,
    "layer": jax.checkpoint_policies.nothing_saveable,
    # All products but the scores of plain attention, which grow with the square of T.
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


# Logical axes of every weight by its name, without the leading layer axis of stacked blocks;
# selfreg.policy.mesh maps them to the mesh.
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
# Matrices of a block, which LoRA adapts. An adapter is split as its matrix, and whole by its rank.
MATRICES = ("q", "k", "v", "o", "gate", "up", "down")
LOGICAL_AXES |= {f"{name}_a": ("rank", LOGICAL_AXES[name][1]) for name in MATRICES}
LOGICAL_AXES |= {f"{name}_b": (LOGICAL_AXES[name][0], "rank") for name in MATRICES}


def embed(config: DecoderConfig, table: Array, tokens: Array, dtype: jnp.dtype) -> Array:
    """Look up the embeddings of tokens in `dtype`, scaled if the family scales them.

    Args:
      config: The decoder's.
      table: [V, D]; or [copies, V, D], with one copy for each part of the rows.
      tokens: int32 [B, T].
      dtype: The type of the result.
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
    # The scale is rounded first, as transformers does: 55.4 is 55.5 in bfloat16.
    return x * jnp.asarray(config.width**0.5, dtype) if config.scaled_embedding else x


def pieces(config: DecoderConfig) -> dict[str, int]:
    """Return the number of pieces of a logical axis that devices must not split: whole heads."""
    return {"heads": config.heads, "kv_heads": config.kv_heads}


def layout(config: DecoderConfig, mesh: Mesh | AbstractMesh, tree: Any) -> Any:
    """Return the sharding of every leaf of a tree of weights, adapters or moments."""
    return weight_shardings(mesh, tree, LOGICAL_AXES, pieces(config))


class Layer(NamedTuple):
    """The inputs of one layer in the scan; with a leading [L] those of all layers.

    Attributes:
      weights: The weights of a Block.
      prefix: Keys and values [N, P, kv_heads, head_dim] before the sequence, or None.
      slides: bool [], whether it is a sliding-window layer.
      number: int32 [], the layer's number.
    """

    weights: dict[str, Array]
    prefix: KeyValue | None
    slides: Array
    number: Array


class States(NamedTuple):
    """The output of a decoder.

    Attributes:
      hidden: Final-normed [B, T, D] in the type that layers compute in.
      kv: All layers' keys and values [L, B, T, kv_heads, head_dim], of these tokens alone.
      sums: The input of that name: see selfreg.policy.models.sums.
    """

    hidden: Array
    kv: KeyValue
    sums: Any


class Decoder(nnx.Module):
    """Turns tokens into hidden states. Callers apply the head, only where they need logits."""

    def __init__(
        self,
        config: DecoderConfig,
        *,
        rngs: nnx.Rngs,
        remat: str = "none",
        attention: str = "auto",
    ):
        """Random weights.

        Args:
          config: The shape.
          rngs: Its `params` stream seeds the weights.
          remat: What the backward pass computes again: `none`; `layer`, all of a layer but its
            input; `dots`, all but the products with weights.
          attention: As in `choose_attention`.

        Raises:
          ValueError: There is no such remat.
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
        """The head's weight [V, D]: the embedding if tied."""
        return self.embedding[...] if self.config.tied_head else self.head[...]

    def __call__(self, tokens: Array, lengths: Array, dtype: jnp.dtype, sums: Any = None) -> States:
        """Run right-padded sequences from their start.

        Args:
          tokens: int32 [B, T].
          lengths: int32 [B], the tokens that are not padding.
          dtype: The type that the layers compute in.
          sums: Sums of gradients of the blocks' weights, stacked and named as these: see
            selfreg.policy.models.sums. None if gradients go to the weights.

        Returns:
          States; `extend` takes their keys and values as its prefix.
        """
        steps = jnp.arange(tokens.shape[1])
        positions = jnp.broadcast_to(steps, tokens.shape)
        causal = steps[:, None] >= steps[None, :]
        # A padded query sees itself, so that no softmax is empty.
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
        """Run continuations of known prefixes, packed side by side into rows.

        A token sees its row's prefix, and the earlier tokens of its own segment.

        Args:
          tokens: int32 [B, T].
          segments: int32 [B, T], the continuation of its row that a token belongs to.
          positions: int32 [B, T], counted from the start of the prefix.
          prefix: [L, N, S, kv_heads, head_dim], shared by every row that names it.
          prefix_lengths: int32 [N], the prefix tokens that are not padding.
          row_prefix: int32 [B], the prefix of each row, below N.
          dtype: The type that the layers compute in.
          sums: As in a call.
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
        # A scan's body is compiled once: nothing outside could share the recomputed values.
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
        # A device looks up the columns that it holds, for its neighbours' rows too, and then the
        # devices exchange rows. This moves far less than exchanging the table.
        x = constrain(constrain(x, "copies", None, "embed"), "rows", None, None)
        (x, sums), kv = jax.lax.scan(step, (x, sums), layers)
        return States(rms_norm(config, x, self.final_norm[...]), kv, sums)
