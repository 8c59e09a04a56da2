"""One update, jitted over the mesh: microbatched gradients, AdamW, and what describes them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from selfreg.learn.ewc import Anchor, fisher, penalty
from selfreg.learn.microbatch import fold, read_prompts, score
from selfreg.learn.moments import in_host_memory, offloaded
from selfreg.learn.objective import Objective, take, token_loss, token_means
from selfreg.learn.optim import cap_updates
from selfreg.learn.packing import Packing
from selfreg.learn.weight_change import weight_change
from selfreg.mesh import (
    constrain_weights,
    in_force,
    place,
    replicated,
)
from selfreg.models.decoder import LOGICAL_AXES, KeyValue, layout, pieces
from selfreg.models.lora import Lora, abstract_adapters, adapt, bind, freeze, merge
from selfreg.models.policy import Policy, abstract_params
from selfreg.records import Batch

Array = jax.Array

# XLA orders operations for a CPU so that many could run at once, and has several weights' steps in
# memory together: up to a quarter more of it. YNN, which computes its products, is some 8% slower
# in an update than Eigen, and copies what it transposes.
ON_CPU: Any = {
    "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
    "xla_cpu_experimental_ynn_fusion_type": "",
}


class TrainState(NamedTuple):
    """What an update changes: float32 weights, or adapters, and the optimizer's moments."""

    params: Any
    moments: optax.OptState


@dataclass(frozen=True, slots=True)
class LearnSettings:
    """The settings that an update is compiled for.

    `offload` keeps the moments in pinned host memory between updates; the last two are those of the
    config.
    """

    dtype: str
    chunk_tokens: int
    packing: Packing
    objective: Objective = field(default_factory=Objective)
    offload: bool = False
    ewc_coef: float = 0.0
    max_update_ratio: float = 0.0


class Numbers(NamedTuple):
    """What may differ from update to update without a new program: float32 scalars."""

    lr: Array
    kl_coef: Array
    temperature: Array


class Learner(NamedTuple):
    """The compiled functions of one run.

    Attributes:
      like: The shapes, types and shardings of a TrainState, to restore one by.
      init: Weights, on the host or the mesh -> TrainState on the mesh, moments at zero.
      update: (state, batch, reference logprobs, lr, kl_coef, temperature, anchor) -> (state,
        metrics). The state that goes in is donated. `reference logprobs` is None where there is no
        KL penalty; `anchor`, None where there is no EWC penalty, may be left out.
      logprobs: (weights, batch, temperature) -> float32 [B, T]: how a reference policy scores the
        completions.
      anchor: (weights, batch, temperature) -> what EWC holds on to: the weights, copied, and their
        Fisher information on the batch.
      merged: What is trained -> the policy's full weights, for an engine. With LoRA a copy, in the
        type that layers compute in; without, the very same arrays.
      lower: (batch, reference logprobs, anchored) -> the update as XLA is given it, with nothing
        computed: to look at its memory and its collectives. `anchored`, False where it is left out:
        with EWC's penalty.

    With LoRA the weights that go in and out are adapters, everywhere but in `merged`.
    """

    like: TrainState
    init: Callable[[Any], TrainState]
    update: Callable[..., tuple[TrainState, dict[str, Array]]]
    logprobs: Callable[[Any, Batch, float], Array]
    anchor: Callable[[Any, Batch, float], Anchor]
    merged: Callable[[Any], Any]
    lower: Callable[..., jax.stages.Lowered]


class _Programs(NamedTuple):
    """What a Learner's functions run: jitted, and none holds any weights.

    Attributes:
      like: As in Learner.
      copy: Weights -> a copy of them on the mesh.
      zero_moments: Weights -> moments at zero.
      update: (state, base, batch, reference logprobs, anchor, numbers) -> (state, metrics).
      logprobs: (weights, base, batch, temperature) -> float32 [B, T].
      anchor: (weights, base, batch, temperature) -> Anchor.
      freeze: Weights -> a LoRA base.
      merge: (base, adapters) -> full weights.
    """

    like: TrainState
    copy: Callable[[Any], Any]
    zero_moments: Callable[[Any], optax.OptState]
    update: Any
    logprobs: Callable[..., Array]
    anchor: Callable[..., Anchor]
    freeze: Callable[[Any], Any]
    merge: Callable[[Any, Any], Any]


def make_learner(
    policy: Policy,
    mesh: Mesh,
    optimizer: optax.GradientTransformation,
    settings: LearnSettings,
    lora: Lora | None = None,
) -> Learner:
    """Compile-ready functions for one policy on one mesh.

    Learners of equal arguments share their programs: the second run in a process compiles nothing.

    Raises:
      ValueError: LoRA's rank does not fit the policy, or the devices cannot offload.
    """
    rank, alpha = (lora.rank, lora.alpha) if lora else (0, 0.0)
    programs = _programs(policy, mesh, optimizer, settings, rank, alpha)
    base = programs.freeze(lora.base) if lora else None

    def on_mesh(batch: Batch) -> dict[str, Array]:
        arrays = {name: getattr(batch, name) for name in Batch.__slots__}
        return {name: place(array, replicated(mesh)) for name, array in arrays.items()}

    def init(params: Any) -> TrainState:
        placed = programs.copy(params)
        return TrainState(placed, programs.zero_moments(placed))

    def update(
        state: TrainState,
        batch: Batch,
        reference: Array | None,
        lr: float,
        kl_coef: float,
        temperature: float,
        anchor: Anchor | None = None,
    ) -> tuple[TrainState, dict[str, Array]]:
        numbers = Numbers(*(jnp.float32(number) for number in (lr, kl_coef, temperature)))
        return programs.update(state, base, on_mesh(batch), reference, anchor, numbers)

    def logprobs(params: Any, batch: Batch, temperature: float) -> Array:
        return programs.logprobs(params, base, on_mesh(batch), jnp.float32(temperature))

    def anchor(params: Any, batch: Batch, temperature: float) -> Anchor:
        return programs.anchor(params, base, on_mesh(batch), jnp.float32(temperature))

    def merged(params: Any) -> Any:
        return programs.merge(base, params) if lora else params

    def lower(batch: Batch, reference: Array | None, anchored: bool = False) -> jax.stages.Lowered:
        like, numbers = programs.like, Numbers(*[jnp.float32(1)] * 3)
        held = Anchor(like.params, like.params) if anchored else None
        return programs.update.lower(like, base, on_mesh(batch), reference, held, numbers)

    return Learner(programs.like, init, update, logprobs, anchor, merged, lower)


@lru_cache(maxsize=16)
def _programs(
    policy: Policy,
    mesh: Mesh,
    optimizer: optax.GradientTransformation,
    settings: LearnSettings,
    rank: int,
    alpha: float,
) -> _Programs:
    """The programs of a learner; with LoRA where the rank is above 0."""

    def shardings(tree: Any) -> Any:
        return layout(policy.config, mesh, tree)

    def with_shardings(tree: Any, shardings: Any) -> Any:
        def leaf(a: jax.ShapeDtypeStruct, sharding: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding)

        return jax.tree.map(leaf, tree, shardings)

    weights = abstract_params(policy)
    full = shardings(weights)
    if rank:
        policy = adapt(policy, rank, alpha)
        weights = abstract_adapters(policy, rank)
    moments = jax.eval_shape(optimizer.init, weights)
    placed_as = TrainState(shardings(weights), shardings(moments))
    if settings.offload:
        on_host = in_host_memory(placed_as.moments, moments)
        optimizer = offloaded(optimizer, placed_as.moments, on_host)
        placed_as = placed_as._replace(moments=on_host)

    # The output keeps the layout of the input: nothing drifts from step to step. The base is an
    # argument: as a constant it would be compiled in.
    @partial(
        jax.jit,
        donate_argnums=0,
        out_shardings=(placed_as, replicated(mesh)),
        compiler_options=ON_CPU if mesh.devices.flat[0].platform == "cpu" else None,
    )
    def update(
        state: TrainState,
        base: Any,
        batch: dict[str, Array],
        reference: Array | None,
        anchor: Anchor | None,
        numbers: Numbers,
    ) -> tuple[TrainState, dict[str, Array]]:
        with in_force(mesh):
            bound = bind(policy, base)
            return _update(
                bound, optimizer, settings, mesh, state, batch, reference, anchor, numbers
            )

    @partial(jax.jit, out_shardings=replicated(mesh))
    def logprobs(params: Any, base: Any, batch: dict[str, Array], temperature: Array) -> Array:
        with in_force(mesh):
            return _score_all(bind(policy, base), settings, mesh, params, batch, temperature)

    @partial(jax.jit, out_shardings=Anchor(placed_as.params, placed_as.params))
    def anchor(params: Any, base: Any, batch: dict[str, Array], temperature: Array) -> Anchor:
        with in_force(mesh):
            options = _score_options(settings, temperature)
            return Anchor(
                jax.tree.map(jnp.copy, params),
                fisher(bind(policy, base), mesh, params, batch, options),
            )

    return _Programs(
        like=with_shardings(TrainState(weights, moments), placed_as),
        # A copy always: the update donates it, and the caller keeps its own.
        copy=jax.jit(partial(jax.tree.map, jnp.copy), out_shardings=placed_as.params),
        zero_moments=jax.jit(optimizer.init, out_shardings=placed_as.moments),
        update=update,
        logprobs=logprobs,
        anchor=anchor,
        freeze=jax.jit(partial(freeze, dtype=jnp.dtype(settings.dtype)), out_shardings=full),
        merge=jax.jit(partial(merge, alpha=alpha), out_shardings=full),
    )


def _score_all(
    policy: Policy,
    settings: LearnSettings,
    mesh: Mesh,
    params: Any,
    batch: dict[str, Array],
    temperature: Array,
) -> Array:
    """Logprobs [B, T] of every completion, 0 on padding."""
    decoder, options = policy.decoder(params), _score_options(settings, temperature)
    prompts = read_prompts(decoder, batch, mesh, options["dtype"])

    def add(scores: Array, slots: Array) -> Array:
        logprobs, _ = score(decoder, prompts, batch, slots, **options)
        # Padding is put behind the end, and dropped.
        return scores.at[jnp.where(slots >= 0, slots, scores.size)].set(logprobs, mode="drop")

    shape = batch["completion_ids"].shape
    zero = jnp.zeros(batch["completion_ids"].size, jnp.float32)
    return fold(add, zero, batch["slots"], settings.packing, mesh).reshape(shape)


def _score_options(settings: LearnSettings, temperature: Array) -> dict[str, Any]:
    return {
        "temperature": temperature,
        "chunk_tokens": settings.chunk_tokens,
        "dtype": jnp.dtype(settings.dtype),
    }


def _update(
    policy: Policy,
    optimizer: optax.GradientTransformation,
    settings: LearnSettings,
    mesh: Mesh,
    state: TrainState,
    batch: dict[str, Array],
    reference: Array | None,
    anchor: Anchor | None,
    numbers: Numbers,
) -> tuple[TrainState, dict[str, Array]]:
    options = _score_options(settings, numbers.temperature)
    extra = {} if reference is None else {"reference": reference}

    def read(params: Any) -> KeyValue:
        return read_prompts(policy.decoder(params), batch, mesh, options["dtype"])

    def loss(params: Any, prompts: KeyValue, slots: Array) -> tuple[Array, dict[str, Array]]:
        logprobs, entropy = score(
            policy.decoder(params), prompts, batch, slots,
            train_entropy=settings.objective.entropy_coef > 0, **options,
        )  # fmt: skip
        # Before anything else: what padding makes may be inf, and 0 x inf is NaN.
        logprobs, entropy = (jnp.where(slots >= 0, each, 0.0) for each in (logprobs, entropy))
        part = take(batch | extra, slots)
        losses, sums = token_loss(
            settings.objective, logprobs, entropy, part, numbers.kl_coef, len(batch["advantages"])
        )
        return jnp.sum(part["token_weights"] * losses), jax.tree.map(jnp.sum, sums)

    value, sums, gradient = _accumulate(policy, loss, state.params, batch, settings, mesh, read)
    tokens = jnp.sum(batch["completion_mask"])
    metrics = token_means(sums, tokens) | {"loss": value, "lr": numbers.lr}
    if anchor is not None:
        metrics["ewc_penalty"], pull = penalty(anchor, state.params, settings.ewc_coef)
        gradient = jax.tree.map(jnp.add, gradient, pull)
    updates, moments = optimizer.update(gradient, state.moments, state.params)
    updates = jax.tree.map(lambda u: numbers.lr * u, updates)
    if settings.max_update_ratio:
        updates, metrics["update_capped_fraction"] = cap_updates(
            updates, state.params, settings.max_update_ratio
        )
    params = optax.apply_updates(state.params, updates)
    metrics |= {"grad_norm": optax.tree.norm(gradient), "update_norm": optax.tree.norm(updates)}
    metrics |= weight_change(policy, state.params, updates, params)
    return TrainState(params, moments), metrics


def _accumulate(
    policy: Policy,
    loss: Callable[..., Any],
    params: Any,
    batch: dict[str, Array],
    settings: LearnSettings,
    mesh: Mesh,
    read: Callable[[Any], KeyValue],
) -> tuple[Array, dict[str, Array], Any]:
    """Sums over microbatches of the loss, of what describes it, and of the gradient.

    The prompts are read once, before the microbatches, and what all of these ask of their keys and
    values goes back through them once, at the end.
    """
    prompts, back = jax.vjp(read, params)
    value_and_grad = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)

    def add(carry: Any, slots: Array) -> Any:
        value, (direct, wanted) = value_and_grad(params, prompts, slots)
        return jax.tree.map(jnp.add, carry, (value, (split(direct), wanted)))

    def split(gradient: Any) -> Any:
        # As the weights are: no device ever holds more of it than of them.
        return constrain_weights(gradient, LOGICAL_AXES, pieces(policy.config))

    slots = batch["slots"][0, : settings.packing.microbatch_rows]
    # Sums of many small terms: in float32, whatever the layers compute in.
    loss_zero, (direct_zero, wanted_zero) = jax.tree.map(
        lambda a: jnp.zeros(a.shape, jnp.float32),
        jax.eval_shape(value_and_grad, params, prompts, slots),
    )
    zero = loss_zero, (split(direct_zero), wanted_zero)
    (value, sums), (direct, wanted) = fold(add, zero, batch["slots"], settings.packing, mesh)
    (through,) = back(jax.tree.map(lambda g, a: g.astype(a.dtype), wanted, prompts))
    return value, sums, jax.tree.map(jnp.add, direct, split(through))
