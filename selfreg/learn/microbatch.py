"""Scoring packed rows and learning from them, a microbatch at a time, over only those in use."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from selfreg.learn.logprobs import token_logprobs
from selfreg.learn.packing import Packing
from selfreg.mesh import batch_sharding
from selfreg.models.decoder import Decoder, KeyValue

Array = jax.Array


def read_prompts(
    decoder: Decoder, batch: dict[str, Array], mesh: Mesh, dtype: jnp.dtype
) -> KeyValue:
    """Keys and values of every prompt but for its last token, whole on every data device.

    That token is the input of each completion's first slot. So a prompt is run once in an update,
    whatever the number of rows that see it, and every slot's state predicts that slot's token.

    Returns:
      [L, P, width, kv_heads, head_dim], right-padded.
    """
    ids = _split(batch["prompt_ids"], mesh)
    # Any row may name any prompt.
    return jax.tree.map(
        lambda a: jax.lax.with_sharding_constraint(a, _whole(mesh, a.ndim)),
        decoder(ids, batch["prompt_lengths"] - 1, dtype)[1],
    )


def score(
    decoder: Decoder,
    prompts: KeyValue,
    batch: dict[str, Array],
    slots: Array,
    *,
    temperature: float | Array,
    chunk_tokens: int,
    dtype: jnp.dtype,
    train_entropy: bool = False,
) -> tuple[Array, Array]:
    """Logprobs and entropies of the tokens in some rows.

    Args:
      decoder: The policy.
      prompts: See read_prompts.
      batch: The fields of a Batch.
      slots: int32 [rows, T], see selfreg.learn.packing.
      temperature: See token_logprobs.
      chunk_tokens: See token_logprobs.
      dtype: What the layers compute in.
      train_entropy: See token_logprobs.

    Returns:
      float32 [rows, T] each; on padding they mean nothing.
    """
    count, longest = batch["completion_ids"].shape
    ids = batch["completion_ids"].reshape(-1)
    token = jnp.maximum(slots, 0)
    completion, step = token // longest, token % longest
    prompt = completion[:, 0] // (count // len(batch["prompt_lengths"]))
    before = batch["prompt_lengths"] - 1
    last = batch["prompt_ids"][prompt, before[prompt]]
    states = decoder.extend(
        jnp.where(step == 0, last[:, None], ids[token - 1]),
        jnp.where(slots >= 0, completion, -1),
        before[prompt, None] + step,
        prompts,
        before,
        prompt,
        dtype,
    )
    return token_logprobs(
        states, decoder.head_weight, ids[token],
        temperature=temperature, chunk_tokens=chunk_tokens, train_entropy=train_entropy,
    )  # fmt: skip


def score_all(
    decoder: Decoder, batch: dict[str, Array], packing: Packing, mesh: Mesh, **options: Any
) -> Array:
    """Logprobs [B, T] of every completion, 0 on padding. The options are those of `score`."""
    prompts = read_prompts(decoder, batch, mesh, options["dtype"])

    def add(scores: Array, slots: Array) -> Array:
        logprobs, _ = score(decoder, prompts, batch, slots, **options)
        # Padding is put behind the end, and dropped.
        return scores.at[jnp.where(slots >= 0, slots, scores.size)].set(logprobs, mode="drop")

    shape = batch["completion_ids"].shape
    zero = jnp.zeros(batch["completion_ids"].size, jnp.float32)
    return fold(add, zero, batch["slots"], packing, mesh).reshape(shape)


def accumulate(
    loss: Callable[[Any, KeyValue, Array], tuple[Array, dict[str, Array]]],
    read: Callable[[Any], KeyValue],
    split: Callable[[Any], Any],
    params: Any,
    slots: Array,
    packing: Packing,
    mesh: Mesh,
) -> tuple[Array, dict[str, Array], Any]:
    """Sums over microbatches of the loss, of what describes it, and of the gradient.

    The prompts are read once, before the microbatches, and what all of these ask of their keys and
    values goes back through them once, at the end.

    Args:
      loss: (weights, prompts' keys and values, slots of a microbatch) -> the loss, float32 [], and
        what describes it.
      read: Weights -> what `loss` wants of the prompts.
      split: Lays a gradient over the mesh in force.
      params: The weights.
      slots: See Batch.
      packing: What they were packed for.
      mesh: See `fold`.
    """
    prompts, back = jax.vjp(read, params)
    value_and_grad = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)

    def add(carry: Any, part: Array) -> Any:
        value, (direct, wanted) = value_and_grad(params, prompts, part)
        return jax.tree.map(jnp.add, carry, (value, (split(direct), wanted)))

    # Sums of many small terms: in float32, whatever the layers compute in.
    loss_zero, (direct_zero, wanted_zero) = jax.tree.map(
        lambda a: jnp.zeros(a.shape, jnp.float32),
        jax.eval_shape(value_and_grad, params, prompts, slots[0, : packing.microbatch_rows]),
    )
    zero = loss_zero, (split(direct_zero), wanted_zero)
    (value, sums), (direct, wanted) = fold(add, zero, slots, packing, mesh)
    (through,) = back(jax.tree.map(lambda g, a: g.astype(a.dtype), wanted, prompts))
    return value, sums, jax.tree.map(jnp.add, direct, split(through))


def fold(
    body: Callable[[Any, Array], Any], carry: Any, slots: Array, packing: Packing, mesh: Mesh
) -> Any:
    """Fold `body` over the microbatches that hold tokens.

    One loop for each width of row, whose length is data: rows that nothing was put in cost nothing,
    and no number of rows needs a program of its own.

    Args:
      body: (carry, slots int32 [microbatch_rows, width]) -> carry.
      carry: What it begins with.
      slots: See Batch.
      packing: What `slots` was packed for.
      mesh: Its data devices split the rows of a microbatch.
    """
    for kind, width in enumerate(packing.row_tokens):
        parts = slots[kind, :, :width].reshape(-1, packing.microbatch_rows, width)
        used = jnp.sum(jnp.any(parts >= 0, axis=(1, 2)))

        def step(index: Array, carry: Any, parts: Array = parts) -> Any:
            return body(carry, _split(parts[index], mesh))

        carry = jax.lax.fori_loop(0, used, step, carry)
    return carry


def _split(rows: Array, mesh: Mesh) -> Array:
    return jax.lax.with_sharding_constraint(rows, batch_sharding(mesh, len(rows)))


def _whole(mesh: Mesh, axes: int) -> NamedSharding:
    """Every data device holds all prompts; other axes lie as the compiler has them."""
    free = PartitionSpec.UNCONSTRAINED
    return NamedSharding(mesh, PartitionSpec(free, None, *[free] * (axes - 2)))
