"""Scoring packed rows and learning from them, a microbatch at a time, over only those in use."""

from collections.abc import Callable, Collection
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from selfreg.policy.learn.logprobs import token_logprobs
from selfreg.policy.learn.packing import Packing
from selfreg.policy.mesh import batch_sharding, constrain, constrain_weights, split_rows
from selfreg.policy.models.decoder import LOGICAL_AXES, Decoder, KeyValue, pieces
from selfreg.policy.models.policy import Policy
from selfreg.policy.models.sums import add_gradient

Array = jax.Array
TABLES = ("embedding", "head")


class Scores(NamedTuple):
    """What `score` says of the tokens in some rows: on padding it means nothing.

    Attributes:
      logprobs: float32 [rows, T].
      entropy: float32 [rows, T], in nats.
      sums: What went in: see selfreg.policy.models.sums.
    """

    logprobs: Array
    entropy: Array
    sums: Any


def read_prompts(
    decoder: Decoder, batch: dict[str, Array], mesh: Mesh, dtype: jnp.dtype, sums: Any = None
) -> tuple[KeyValue, Any]:
    """Keys and values of every prompt but for its last token, whole on every data device.

    That token is the input of each completion's first slot. So a prompt is run once in an update,
    whatever the number of rows that see it, and every slot's state predicts that slot's token.

    Returns:
      [L, P, width, kv_heads, head_dim], right-padded; and `sums`, see Decoder.
    """
    ids = _split(batch["prompt_ids"], mesh)
    states = decoder(ids, batch["prompt_lengths"] - 1, dtype, sums)

    # Any row may name any prompt.
    def whole(a: Array) -> Array:
        return jax.lax.with_sharding_constraint(a, _whole(mesh, a.ndim))

    return jax.tree.map(whole, states.kv), states.sums


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
    sums: Any = None,
) -> Scores:
    """Logprobs and entropies of the tokens in some rows.

    Args:
      decoder: The policy.
      prompts: See read_prompts.
      batch: The fields of a Batch.
      slots: int32 [rows, T], see selfreg.policy.learn.packing.
      temperature: See token_logprobs.
      chunk_tokens: See token_logprobs.
      dtype: What the layers compute in.
      train_entropy: See token_logprobs.
      sums: See Decoder.
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
        sums,
    )
    scores = token_logprobs(
        states.hidden, decoder.head_weight, ids[token],
        temperature=temperature, chunk_tokens=chunk_tokens, train_entropy=train_entropy,
    )  # fmt: skip
    return Scores(*scores, states.sums)


def score_all(
    decoder: Decoder, batch: dict[str, Array], packing: Packing, mesh: Mesh, **options: Any
) -> Array:
    """Logprobs [B, T] of every completion, 0 on padding. The options are those of `score`."""
    prompts, _ = read_prompts(decoder, batch, mesh, options["dtype"])

    def add(scores: Array, slots: Array) -> Array:
        logprobs = score(decoder, prompts, batch, slots, **options).logprobs
        # Padding is put behind the end, and dropped.
        return scores.at[jnp.where(slots >= 0, slots, scores.size)].set(logprobs, mode="drop")

    shape = batch["completion_ids"].shape
    zero = jnp.zeros(batch["completion_ids"].size, jnp.float32)
    return fold(add, zero, batch["slots"], packing, mesh).reshape(shape)


def zero_sums(policy: Policy, params: Any) -> Any:
    """Zeros for sums of gradients, laid over the mesh in force as what is trained."""
    # No device ever holds more of them than of the weights.
    return _split_weights(policy)(jax.tree.map(jnp.zeros_like, params))


def summing(policy: Policy, params: Any, sums: Any) -> tuple[Decoder, Any]:
    """The decoder with these weights, whose gradients are added to `sums`.

    Those of the blocks are added by the decoder, to which `sums["blocks"]` must be given; those of
    all else take the place of its sums.

    Args:
      policy: What learns.
      params: What is trained.
      sums: See selfreg.policy.models.sums. A table's may be `_apart`.

    Returns:
      The decoder, and the sums to hand on.
    """
    outer = {name: leaf for name, leaf in params.items() if name != "blocks"}
    own = {name: sums[name] for name in outer}
    apart = {name for name, leaf in own.items() if leaf.ndim > outer[name].ndim}
    outer |= {name: _for_copies(name, outer[name], len(own[name])) for name in apart}
    outer, own = add_gradient(_split_weights(policy, apart), outer, own)
    return policy.decoder(params | outer), sums | own


def _split_weights(policy: Policy, apart: Collection[str] = ()) -> Callable[[Any], Any]:
    axes = LOGICAL_AXES | {name: ("copies", *LOGICAL_AXES[name]) for name in apart}
    return partial(constrain_weights, logical_axes=axes, pieces=pieces(policy.config))


def accumulate(
    loss: Callable[[Any, KeyValue, Array], tuple[tuple[Array, Any], dict[str, Array]]],
    read: Callable[[Any], tuple[KeyValue, Any]],
    zero: Any,
    slots: Array,
    packing: Packing,
    mesh: Mesh,
) -> tuple[Array, dict[str, Array], Any]:
    """Sums over microbatches of the loss, of what describes it, and of the gradient.

    The prompts are read once, before the microbatches, and what all of these ask of their keys and
    values goes back through them once, at the end. All of it is added to one sum, in place: see
    selfreg.policy.models.sums.

    Args:
      loss: (sums of gradients, prompts' keys and values, slots of a microbatch) -> the loss,
        float32 [], and the sums handed on; and what describes the loss.
      read: Sums of gradients -> what `loss` wants of the prompts, and the sums handed on.
      zero: Float32 zeros, nested, shaped and laid out as what is trained.
      slots: See Batch.
      packing: What they were packed for.
      mesh: See `fold`.
    """
    (prompts, _), through_prompts = jax.vjp(read, zero)
    apart = _apart(zero, mesh, packing.microbatch_rows)

    def add(carry: Any, part: Array) -> Any:
        so_far, wanted, gradient = carry
        (value, _), back, sums = jax.vjp(
            lambda total, prompts: loss(total, prompts, part), apart, prompts, has_aux=True
        )
        own, more = back((jnp.ones_like(value), gradient))
        so_far, wanted = jax.tree.map(jnp.add, (so_far, wanted), ((value, sums), more))
        return so_far, wanted, _with_outer(gradient, own)

    # Sums of many small terms: in float32, whatever the layers compute in.
    def zeros(tree: Any) -> Any:
        return jax.tree.map(lambda a: jnp.zeros(a.shape, jnp.float32), tree)

    (value, _), sums = jax.eval_shape(loss, apart, prompts, slots[0, : packing.microbatch_rows])
    start = zeros((value, sums)), zeros(prompts), apart
    (value, sums), wanted, gradient = fold(add, start, slots, packing, mesh)
    # A table's alone may have an axis more than its zeros.
    gradient = {
        n: g if n not in TABLES or g.ndim == zero[n].ndim else jnp.sum(g, axis=0)
        for n, g in gradient.items()
    }
    wanted = jax.tree.map(lambda g, a: g.astype(a.dtype), wanted, prompts)
    (own,) = through_prompts((wanted, gradient))
    return value, sums, _with_outer(gradient, own)


def _apart(zero: Any, mesh: Mesh, rows: int) -> Any:
    """The zeros, those of a table [copies, V, D]: a sum for every copy of the weights.

    So the copies exchange a table's gradient once, behind the microbatches, and not in each.

    Args:
      zero: See `accumulate`.
      mesh: Its data axis has the copies.
      rows: Of a microbatch. If devices cannot split them, nothing is apart.
    """
    copies = mesh.shape["data"] if split_rows(mesh, rows) > 1 else 1
    if copies == 1:
        return zero
    return zero | {name: _for_copies(name, zero[name], copies) for name in TABLES if name in zero}


def _for_copies(name: str, table: Array, copies: int) -> Array:
    """A table [copies, V, D], each copy of the weights holding its own."""
    spread = jnp.broadcast_to(table, (copies, *table.shape))
    return constrain(spread, "copies", *LOGICAL_AXES[name])


def _with_outer(sums: Any, gradient: Any) -> Any:
    """The blocks' new sums, and those of all else with their gradient added."""
    return {n: g if n == "blocks" else sums[n] + g for n, g in gradient.items()}


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
