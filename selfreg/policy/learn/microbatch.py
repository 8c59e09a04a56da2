"""Score packed rows and accumulate gradients over the microbatches that hold tokens."""

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
    """The scores of the tokens in some rows. Values on padding are meaningless.

    Attributes:
      logprobs: float32 [rows, T].
      entropy: float32 [rows, T], in nats.
      sums: The sums of gradients to pass on. See selfreg.policy.models.sums.
    """

    logprobs: Array
    entropy: Array
    sums: Any


def read_prompts(
    decoder: Decoder, batch: dict[str, Array], mesh: Mesh, dtype: jnp.dtype, sums: Any = None
) -> tuple[KeyValue, Any]:
    """Compute the keys and values of every prompt without its last token.

    The last token is the input of each completion's first slot, so every slot's state predicts that
    slot's token. An update runs each prompt once, however many rows attend to it. Every data device
    holds the keys and values of all prompts, because any row may attend to any prompt.

    Args:
      decoder: The policy.
      batch: The fields of a Batch.
      mesh: The mesh in force.
      dtype: The dtype that the layers compute in.
      sums: See Decoder.

    Returns:
      Keys and values [L, P, width, kv_heads, head_dim], right-padded, and the sums to pass on.
    """
    ids = _split(batch["prompt_ids"], mesh)
    states = decoder(ids, batch["prompt_lengths"] - 1, dtype, sums)

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
    """Return the logprobs and entropies of the tokens in some rows.

    Args:
      decoder: The policy.
      prompts: The keys and values that read_prompts returns.
      batch: The fields of a Batch.
      slots: int32 [rows, T]. See selfreg.policy.learn.packing.
      temperature: See token_logprobs.
      chunk_tokens: See token_logprobs.
      dtype: The dtype that the layers compute in.
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
    """Return the logprobs [B, T] of every completion, 0 on padding.

    The options are those of `score`.
    """
    prompts, _ = read_prompts(decoder, batch, mesh, options["dtype"])

    def add(scores: Array, slots: Array) -> Array:
        logprobs = score(decoder, prompts, batch, slots, **options).logprobs
        # Padding gets an index beyond the end, so mode="drop" discards it.
        return scores.at[jnp.where(slots >= 0, slots, scores.size)].set(logprobs, mode="drop")

    shape = batch["completion_ids"].shape
    zero = jnp.zeros(batch["completion_ids"].size, jnp.float32)
    return fold(add, zero, batch["slots"], packing, mesh).reshape(shape)


def zero_sums(policy: Policy, params: Any) -> Any:
    """Return zeros for sums of gradients, sharded like the trained parameters.

    No device ever holds a larger part of the sums than of the weights.
    """
    return _split_weights(policy)(jax.tree.map(jnp.zeros_like, params))


def summing(policy: Policy, params: Any, sums: Any) -> tuple[Decoder, Any]:
    """Return a decoder with these parameters, whose gradients are added to `sums`.

    The caller must pass `sums["blocks"]` to the decoder, which adds the gradients of the blocks.
    The gradients of all other parameters replace their sums.

    Args:
      policy: The policy that learns.
      params: The trained parameters.
      sums: See selfreg.policy.models.sums. A table's sum may be `_apart`.

    Returns:
      The decoder, and the sums to pass on.
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
    """Return the loss, its metrics and its gradient, each summed over the microbatches.

    The prompts run forward once, before the microbatches. The microbatches' gradients with respect
    to the prompts' keys and values go backward through the prompts once, at the end. All gradients
    are added to one sum in place. See selfreg.policy.models.sums.

    Args:
      loss: (sums of gradients, prompts' keys and values, slots of a microbatch) ->
        ((the loss, float32 [], and the sums to pass on), metrics).
      read: Sums of gradients -> the prompts' keys and values, and the sums to pass on.
      zero: Float32 zeros with the nesting, shapes and shardings of the trained parameters.
      slots: See Batch.
      packing: The packing of `slots`.
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

    # Sums of many small terms need float32, whatever dtype the layers compute in.
    def zeros(tree: Any) -> Any:
        return jax.tree.map(lambda a: jnp.zeros(a.shape, jnp.float32), tree)

    (value, _), sums = jax.eval_shape(loss, apart, prompts, slots[0, : packing.microbatch_rows])
    start = zeros((value, sums)), zeros(prompts), apart
    (value, sums), wanted, gradient = fold(add, start, slots, packing, mesh)
    # Only a table's gradient may have an axis more than its zeros: that of the copies.
    gradient = {
        n: g if n not in TABLES or g.ndim == zero[n].ndim else jnp.sum(g, axis=0)
        for n, g in gradient.items()
    }
    wanted = jax.tree.map(lambda g, a: g.astype(a.dtype), wanted, prompts)
    (own,) = through_prompts((wanted, gradient))
    return value, sums, _with_outer(gradient, own)


def _apart(zero: Any, mesh: Mesh, rows: int) -> Any:
    """Give each copy of the weights its own sum for a table's gradient: [copies, V, D].

    The copies then exchange a table's gradient once after the microbatches, instead of once in each
    of them.

    Args:
      zero: See `accumulate`.
      mesh: The size of its data axis is the number of copies.
      rows: The rows of a microbatch. If the devices cannot split them, `zero` is returned as it is.
    """
    copies = mesh.shape["data"] if split_rows(mesh, rows) > 1 else 1
    if copies == 1:
        return zero
    return zero | {name: _for_copies(name, zero[name], copies) for name in TABLES if name in zero}


def _for_copies(name: str, table: Array, copies: int) -> Array:
    """Return a table [copies, V, D], with one entry on each copy of the weights."""
    spread = jnp.broadcast_to(table, (copies, *table.shape))
    return constrain(spread, "copies", *LOGICAL_AXES[name])


def _with_outer(sums: Any, gradient: Any) -> Any:
    """Return the blocks' new sums, and the other sums with their gradient added."""
    return {n: g if n == "blocks" else sums[n] + g for n, g in gradient.items()}


def fold(
    body: Callable[[Any, Array], Any], carry: Any, slots: Array, packing: Packing, mesh: Mesh
) -> Any:
    """Fold `body` over the microbatches that hold tokens.

    Each row width has one loop, whose trip count is data. So empty rows cost nothing, and one
    program serves every number of rows.

    Args:
      body: (carry, slots int32 [microbatch_rows, width]) -> carry.
      carry: The initial carry.
      slots: See Batch.
      packing: The packing of `slots`.
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
    """Return the sharding that puts all prompts on every data device.

    The compiler chooses how the other axes are split.
    """
    free = PartitionSpec.UNCONSTRAINED
    return NamedSharding(mesh, PartitionSpec(free, None, *[free] * (axes - 2)))
