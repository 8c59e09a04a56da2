"""The in-process engine's decoding programs: pure functions to be jitted."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from selfreg.policy.mesh import (
    constrain,
    constrain_weights,
    device_in_force,
    sharding_of,
    weight_shardings,
    with_shardings,
)
from selfreg.policy.models.adapted import read_layer, stacks, unmerged
from selfreg.policy.models.attention import (
    KeyValue,
    attend,
    attend_shared,
    choose_attention,
    make_masks,
)
from selfreg.policy.models.block import Block, linear, linear_of_few, rms_norm
from selfreg.policy.models.decoder import LOGICAL_AXES, embed, pieces
from selfreg.policy.models.policy import Policy
from selfreg.policy.models.rope import make_rotations
from selfreg.policy.models.shape import DecoderConfig
from selfreg.policy.rollout.sampling import draw
from selfreg.run.records import Sampling

Array = jax.Array


class Weights(NamedTuple):
    """A policy's weights for decoding: in the compute dtype, with a separate entry for each layer.

    Slicing a layer out of a stack inside the loop would copy it at every token.

    Attributes:
      embedding: [V, D].
      final_norm: [D].
      head: [V, D]. None: the head is the embedding. A program that returned it twice would create
        two buffers.
      layers: Each layer's weights.
    """

    embedding: Array
    final_norm: Array
    head: Array | None
    layers: tuple[Any, ...]

    @property
    def head_weight(self) -> Array:
        """The head's weight [V, D]."""
        return self.embedding if self.head is None else self.head


class Rows(NamedTuple):
    """The decoding state of b rows in n lanes. The b / n rows of a lane share a prompt's cache.

    Attributes:
      prompts: For each layer, keys [n, kv_heads, head_dim, P] and values [n, kv_heads, P, head_dim]
        of each lane's prompt, right-padded.
      caches: For each layer, keys [b, kv_heads, head_dim, C] and values [b, kv_heads, C, head_dim]
        of each row's completion. On a GPU the last two axes are swapped: see `_as_kept`.
      prompt_lengths: int32 [b].
      hidden: [b, D], the last token's final-normed state, from which the next token is drawn.
      seeds: uint32 [b].
      stopped: bool [b].
    """

    prompts: tuple[KeyValue, ...]
    caches: tuple[KeyValue, ...]
    prompt_lengths: Array
    hidden: Array
    seeds: Array
    stopped: Array

    @property
    def lane(self) -> int:
        """The number of rows in a lane."""
        return len(self.seeds) // len(self.prompts[0].k)


class Drawn(NamedTuple):
    """The tokens of one segment: ids and logprobs [b, n], and alternatives with theirs [b, n, A].

    An id of -1 means that the row had already stopped.
    """

    tokens: Array | np.ndarray
    logprobs: Array | np.ndarray
    alter_ids: Array | np.ndarray
    alter_logprobs: Array | np.ndarray


def empty_drawn(rows: int, tokens: int, alternatives: int) -> Drawn:
    """Return a Drawn with ids -1 and logprobs 0, as NumPy arrays for use on the host or in jit."""
    shape = (rows, tokens)
    return Drawn(
        np.full(shape, -1, np.int32),
        np.zeros(shape, np.float32),
        np.zeros((*shape, alternatives), np.int32),
        np.zeros((*shape, alternatives), np.float32),
    )


def unstack(policy: Policy, params: Any, *, dtype: jnp.dtype) -> Weights:
    """Copy and cast the trainer's weights, merging adapters into the copies if there are any.

    The result shares no memory with the input. Weights that fsdp splits are gathered once here,
    because gathering them for every token would cost far more than the token.
    """

    # A jitted identity would return the trainer's own buffer, which the update then donates.
    def copied(weight: Array) -> Array:
        return jnp.copy(weight.astype(dtype))

    whole = partial(
        constrain_weights, logical_axes=LOGICAL_AXES, pieces=pieces(policy.config), over=("tensor",)
    )
    rest, alpha = unmerged(params)
    tables = ("embedding",) if policy.config.tied_head else ("embedding", "head")
    made: list[dict[str, Array]] = [whole({name: copied(rest[name])}) for name in tables]
    blocks = {name: stacks(params, name) for name in rest["blocks"]}
    for i in range(policy.config.layers):
        # Else XLA would merge and gather many layers at once, and hold all that this takes.
        blocks, made[-1] = jax.lax.optimization_barrier((blocks, made[-1]))
        layer = {name: copied(read_layer(parts, i, alpha)) for name, parts in blocks.items()}
        made.append(whole(layer))
    layers = tuple(made[len(tables) :])
    embedding, head = made[0]["embedding"], made[len(tables) - 1].get("head")
    return whole(Weights(embedding, rest["final_norm"].copy(), head, layers))


def weights_like(mesh: Mesh, policy: Policy, unstack: Any, params: Any) -> Weights:
    """Return the shapes, dtypes and shardings of `unstack`'s result on a mesh."""
    shapes = unstack.eval_shape(params)
    over = weight_shardings(mesh, shapes, LOGICAL_AXES, pieces(policy.config), over=("tensor",))
    return with_shardings(shapes, over)


def rows_like(mesh: Mesh, prefill: Any, *given: Any, **options: Any) -> Rows:
    """Return the shapes, dtypes and shardings of `prefill`'s result on a mesh."""
    shapes = prefill.eval_shape(*given, **options)
    lie = jax.tree.map(lambda a: sharding_of(mesh, a.shape, *_row_axes(a)), shapes)
    return with_shardings(shapes, lie)


def _linear() -> Callable[[Array, Array], Array]:
    return linear_of_few if device_in_force().platform == "cpu" else linear


@lru_cache
def _block_structure(config: DecoderConfig) -> nnx.GraphDef:
    return nnx.graphdef(nnx.eval_shape(lambda: Block(config, rngs=nnx.Rngs(0))))


def _blocks(policy: Policy, weights: Weights) -> list[tuple[Block, bool]]:
    """Return every layer, and whether it has a sliding window."""
    structure = _block_structure(policy.config)
    blocks = [nnx.merge(structure, layer) for layer in weights.layers]
    for block in blocks:
        block.linear = _linear()
    return list(zip(blocks, policy.config.slides, strict=True))


def prefill(
    policy: Policy,
    weights: Weights,
    tokens: Array,
    lengths: Array,
    seeds: Array,
    stopped: Array,
    *,
    lane: int,
    new_tokens: int,
) -> Rows:
    """Run each prompt once and give its cache to the lanes of its group.

    Args:
      policy: The decoder's shape.
      weights: The decoder's weights.
      tokens: int32 [N, P], right-padded prompts.
      lengths: int32 [N].
      seeds: uint32 [B], B = N * G, with the rows of a group adjacent.
      stopped: bool [B], True for rows that only fill the batch.
      lane: The number of rows in a lane. It must divide G.
      new_tokens: The number of completion tokens that the cache has room for.
    """
    config, dtype = policy.config, weights.embedding.dtype
    group = len(seeds) // len(tokens)
    steps = jnp.arange(tokens.shape[1])[None]
    masks = make_masks(steps[:, :, None] >= steps[:, None], steps, steps, config.window)
    rotations = make_rotations(config, jnp.broadcast_to(steps, tokens.shape))
    kind = choose_attention(policy.attention, dtype, config.head_dim)
    x = embed(config, weights.embedding, tokens, dtype)
    prompts, caches = [], []
    for block, slides in _blocks(policy, weights):
        mask = masks.sliding if slides else masks.full
        q, (k, v) = block.query_key_value(x, rotations.sliding if slides else rotations.full)
        x = block.finish(x, attend(q, k, v, mask, scale=config.attention_scale, kind=kind))
        read = _on_rows(KeyValue(k.transpose(0, 2, 3, 1), v.transpose(0, 2, 1, 3)))
        prompts.append(KeyValue(*(jnp.repeat(a, group // lane, axis=0) for a in read)))
        empty = (len(seeds), config.kv_heads, new_tokens, config.head_dim)
        values = jnp.zeros(empty, dtype)
        caches.append(_as_kept(KeyValue(values.swapaxes(2, 3), values)))
    last = jnp.take_along_axis(x, lengths[:, None, None] - 1, axis=1)[:, 0]
    hidden = rms_norm(config, last, weights.final_norm)
    spread = partial(jnp.repeat, repeats=group, axis=0)
    return _on_rows(
        Rows(tuple(prompts), tuple(caches), spread(lengths), spread(hidden), seeds, stopped)
    )


def _swaps() -> bool:
    return device_in_force().platform != "cpu"


def _as_kept(cache: KeyValue) -> KeyValue:
    """A row's own cache as it is kept between tokens, from how attention reads it; or back.

    A GPU sums along the innermost axis. There XLA would turn all caches round before each segment's
    loop, hold them twice, and turn them back after it; on some meshes it would do so at each token.
    """
    return KeyValue(*(a.swapaxes(2, 3) for a in cache)) if _swaps() else cache


def _written(cache: KeyValue, new: KeyValue, t: Array) -> KeyValue:
    """A cache, as it is kept, with the keys and values of position t."""
    write = partial(jax.lax.dynamic_update_slice_in_dim, start_index=t)
    axes = (2, 3) if _swaps() else (3, 2)
    return KeyValue(write(cache.k, new.k, axis=axes[0]), write(cache.v, new.v, axis=axes[1]))


def _on_rows(tree: Any) -> Any:
    """Split rows over devices, and also the heads of caches, the only arrays with four axes."""
    return jax.tree.map(lambda a: constrain(a, *_row_axes(a)), tree)


def _row_axes(a: Any) -> tuple[str | None, ...]:
    return ("rows", "kv_heads", None, None) if a.ndim == 4 else ("rows", *(None,) * (a.ndim - 1))


def pack(rows: Rows, kept: Array, *, lane: int) -> Rows:
    """Keep only some rows of each part of a batch, in narrower lanes.

    Args:
      rows: The state.
      kept: int32 [S, n], the rows to keep in each of S equal parts, counted within the part. Each
        run of `lane` rows must belong to one prompt.
      lane: The number of rows in a lane of the result.
    """

    def pick(taken: Array, leaf: Array) -> Array:
        parts = leaf.reshape(len(taken), -1, *leaf.shape[1:])
        return jax.vmap(lambda part, own: part[own])(parts, taken).reshape(-1, *leaf.shape[1:])

    prompts = jax.tree.map(partial(pick, kept[:, ::lane] // rows.lane), rows.prompts)
    return _on_rows(jax.tree.map(partial(pick, kept), rows)._replace(prompts=prompts))


def segment(
    policy: Policy,
    weights: Weights,
    rows: Rows,
    start: Array,
    stop: Array,
    *,
    sampling: Sampling,
    tokens: int,
) -> tuple[Rows, Drawn, Array]:
    """Draw tokens until each row has `min(start + tokens, stop)` of them or has stopped.

    Args:
      policy: The decoder's shape and stop tokens.
      weights: The decoder's weights.
      rows: The state so far.
      start: int32 [], the number of tokens that each row has drawn so far.
      stop: int32 [], the maximum number of tokens in a completion.
      sampling: How to draw.
      tokens: The maximum number of tokens to draw in this segment.

    Returns:
      The new state, the tokens drawn [b, tokens], and which rows have stopped, bool [b].
    """
    config = policy.config
    blocks = _blocks(policy, weights)
    keys = jax.vmap(jax.random.key)(rows.seeds)
    firsts = rows.prompts[0], _as_kept(rows.caches[0])
    prompt, room = (jnp.arange(first.v.shape[2])[None] for first in firsts)
    lengths = rows.prompt_lengths[:, None]
    key_positions = jnp.concatenate(
        [jnp.broadcast_to(prompt, (len(lengths), prompt.size)), lengths + room], axis=1
    )
    in_prompt = prompt < lengths
    rotations = make_rotations(config, lengths + start + jnp.arange(tokens))

    def forward(state: Rows, token: Array, t: Array) -> tuple[Any, Array]:
        written = jnp.broadcast_to(room <= t, (len(lengths), room.size))
        seen = jnp.concatenate([in_prompt, written], axis=1)[:, None]
        masks = make_masks(seen, lengths + t, key_positions, config.window)
        now = partial(jax.lax.dynamic_slice_in_dim, start_index=t - start, slice_size=1, axis=1)
        turns = jax.tree.map(now, rotations)
        x = _on_rows(embed(config, weights.embedding, token[:, None], weights.embedding.dtype))
        grown = []
        for (block, slides), read, cache in zip(blocks, state.prompts, state.caches, strict=True):
            mask = masks.sliding if slides else masks.full
            q, (k, v) = block.query_key_value(x, turns.sliding if slides else turns.full)
            new = _as_kept(KeyValue(k.transpose(0, 2, 3, 1), v.transpose(0, 2, 1, 3)))
            cache = _on_rows(_written(cache, new, t))
            scale = config.attention_scale
            attended = attend_shared(q[:, 0], read, _as_kept(cache), mask[:, 0], scale=scale)
            x = _on_rows(block.finish(x, attended[:, None]))
            grown.append(cache)
        return tuple(grown), rms_norm(config, x[:, 0], weights.final_norm)

    def body(carry: tuple[Array, Rows, Drawn]) -> tuple[Array, Rows, Drawn]:
        t, state, drawn = carry
        # Each device draws for its own rows, and needs all logits of them.
        logits = _linear()(state.hidden, weights.head_weight).astype(jnp.float32)
        logits = constrain(constrain(logits, "rows", "vocab"), "draws", None)
        uniform = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, t)))(keys)
        token, logprob = _on_rows(draw(logits, uniform, sampling))
        new = Drawn(jnp.where(state.stopped, -1, token), logprob, *_alternatives(logits, sampling))
        write = partial(jax.lax.dynamic_update_index_in_dim, index=t - start, axis=1)
        drawn = jax.tree.map(write, drawn, new)
        caches, hidden = forward(state, token, t)
        stopped = state.stopped | jnp.isin(token, jnp.array(policy.stop_ids))
        return t + 1, state._replace(caches=caches, hidden=hidden, stopped=stopped), drawn

    def unfinished(carry: tuple[Array, Rows, Drawn]) -> Array:
        t, state, _ = carry
        return (t < jnp.minimum(start + tokens, stop)) & ~jnp.all(state.stopped)

    nothing = empty_drawn(len(rows.seeds), tokens, sampling.num_alter_tokens)
    _, after, drawn = jax.lax.while_loop(unfinished, body, (start, rows, nothing))
    return after, drawn, after.stopped


def _alternatives(logits: Array, sampling: Sampling) -> tuple[Array, Array]:
    """Return the likeliest tokens [b, A] and their logprobs at the sampling temperature."""
    if not sampling.num_alter_tokens:
        empty = jnp.zeros((len(logits), 0))
        return empty.astype(jnp.int32), empty
    logprobs = jax.nn.log_softmax(logits / (sampling.temperature or 1.0))
    values, ids = jax.lax.top_k(logprobs, sampling.num_alter_tokens)
    return ids.astype(jnp.int32), values
