"""One update, jitted over the mesh: microbatched gradients, AdamW, and what describes them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from selfreg.learn.logprobs import token_logprobs
from selfreg.learn.losses import k3, policy_gradient
from selfreg.learn.moments import in_host_memory, offloaded
from selfreg.learn.weight_change import weight_change
from selfreg.mesh import (
    batch_sharding,
    constrain_weights,
    in_force,
    place,
    replicated,
)
from selfreg.models.decoder import LOGICAL_AXES, layout, pieces
from selfreg.models.lora import Lora, abstract_adapters, adapt, bind, freeze, merge
from selfreg.models.policy import Policy, abstract_params
from selfreg.records import Batch

Array = jax.Array


class TrainState(NamedTuple):
    """What an update changes: float32 weights, or adapters, and the optimizer's moments."""

    params: Any
    moments: optax.OptState


@dataclass(frozen=True, slots=True)
class LearnSettings:
    """The settings that an update is compiled for.

    `offload` keeps the moments in pinned host memory between updates.
    """

    dtype: str
    temperature: float
    chunk_tokens: int
    microbatch_sequences: int
    use_ratio: bool
    use_kl: bool
    offload: bool = False


class Learner(NamedTuple):
    """The compiled functions of one run.

    Attributes:
      like: The shapes, types and shardings of a TrainState, to restore one by.
      init: Weights, on the host or the mesh -> TrainState on the mesh, moments at zero.
      update: (state, batch, reference logprobs, lr, kl_coef) -> (state, metrics). The state that
        goes in is donated. `reference logprobs` is None when the settings have no KL.
      logprobs: (weights, batch) -> float32 [B, T]: how a reference policy scores the completions.
      merged: What is trained -> the policy's full weights, for an engine. With LoRA a copy, in the
        type that layers compute in; without, the very same arrays.
      lower: (batch, reference logprobs) -> the update as XLA is given it, with nothing computed: to
        look at its memory and its collectives.

    With LoRA the weights that go in and out are adapters, everywhere but in `merged`.
    """

    like: TrainState
    init: Callable[[Any], TrainState]
    update: Callable[..., tuple[TrainState, dict[str, Array]]]
    logprobs: Callable[[Any, Batch], Array]
    merged: Callable[[Any], Any]
    lower: Callable[[Batch, Array | None], jax.stages.Lowered]


def make_learner(
    policy: Policy,
    mesh: Mesh,
    optimizer: optax.GradientTransformation,
    settings: LearnSettings,
    lora: Lora | None = None,
) -> Learner:
    """Compile-ready functions for one policy on one mesh.

    Raises:
      ValueError: LoRA's rank does not fit the policy, or the devices cannot offload.
    """

    def shardings(tree: Any) -> Any:
        return layout(policy.config, mesh, tree)

    def on_mesh(batch: Batch) -> dict[str, Array]:
        # Microbatches are cut on the host: each is spread over all devices, and none moves.
        arrays = _microbatches(settings, {n: getattr(batch, n) for n in Batch.__slots__})
        return {n: place(a, batch_sharding(mesh, a.shape[1], axis=1)) for n, a in arrays.items()}

    def with_shardings(tree: Any, shardings: Any) -> Any:
        def leaf(a: jax.ShapeDtypeStruct, sharding: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding)

        return jax.tree.map(leaf, tree, shardings)

    base, weights = None, abstract_params(policy)
    if lora is not None:
        dtype = jnp.dtype(settings.dtype)
        base = jax.jit(partial(freeze, dtype=dtype), out_shardings=shardings(weights))(lora.base)
        merge_all = jax.jit(partial(merge, alpha=lora.alpha), out_shardings=shardings(weights))
        policy = adapt(policy, lora.rank, lora.alpha)
        weights = abstract_adapters(policy, lora.rank)
    moments = jax.eval_shape(optimizer.init, weights)
    placed_as = TrainState(shardings(weights), shardings(moments))
    if settings.offload:
        on_host = in_host_memory(placed_as.moments, moments)
        optimizer = offloaded(optimizer, placed_as.moments, on_host)
        placed_as = placed_as._replace(moments=on_host)
    like = with_shardings(TrainState(weights, moments), placed_as)
    zero_moments = jax.jit(optimizer.init, out_shardings=placed_as.moments)
    # A copy always: the update donates it, and the caller keeps its own.
    copy = jax.jit(partial(jax.tree.map, jnp.copy), out_shardings=placed_as.params)

    def init(params: Any) -> TrainState:
        placed = copy(params)
        return TrainState(placed, zero_moments(placed))

    def update(
        state: TrainState, batch: Batch, reference: Array | None, lr: float, kl_coef: float
    ) -> tuple[TrainState, dict[str, Array]]:
        return jitted(state, base, on_mesh(batch), reference, jnp.float32(lr), jnp.float32(kl_coef))

    # The output keeps the layout of the input: nothing drifts from step to step. The base is an
    # argument: as a constant it would be compiled in.
    @partial(jax.jit, donate_argnums=0, out_shardings=(placed_as, replicated(mesh)))
    def jitted(
        state: TrainState,
        base: Any,
        batch: dict[str, Array],
        reference: Array | None,
        lr: Array,
        kl: Array,
    ) -> tuple[TrainState, dict[str, Array]]:
        with in_force(mesh):
            bound = bind(policy, base)
            return _update(bound, optimizer, settings, state, batch, reference, lr, kl)

    @partial(jax.jit, out_shardings=replicated(mesh))
    def score(params: Any, base: Any, batch: dict[str, Array]) -> Array:
        with in_force(mesh):
            return _score_all(bind(policy, base), settings, params, batch)

    def logprobs(params: Any, batch: Batch) -> Array:
        return score(params, base, on_mesh(batch))

    def merged(params: Any) -> Any:
        return params if lora is None else merge_all(base, params)

    def lower(batch: Batch, reference: Array | None) -> jax.stages.Lowered:
        zero = jnp.float32(0)
        return jitted.lower(like, base, on_mesh(batch), reference, zero, zero)

    return Learner(like, init, update, logprobs, merged, lower)


def _score(
    policy: Policy, settings: LearnSettings, params: Any, batch: dict[str, Array]
) -> tuple[Array, Array]:
    """Logprobs and entropies [B, T] of a microbatch's completions, each prompt run once."""
    decoder = policy.decoder(params)
    dtype = jnp.dtype(settings.dtype)
    lengths, completions = batch["prompt_lengths"], batch["completion_ids"]
    hidden, prefix = decoder(batch["prompt_ids"], lengths, dtype)
    # The last prompt token predicts the first completion token, and so on.
    last = jnp.take_along_axis(hidden, lengths[:, None, None] - 1, axis=1)
    last = jnp.repeat(last, len(completions) // len(lengths), axis=0)
    rest = decoder.extend(completions[:, :-1], prefix, lengths, dtype)
    states = jnp.concatenate([last, rest], axis=1)
    return token_logprobs(
        states, decoder.head_weight, completions,
        temperature=settings.temperature, chunk_tokens=settings.chunk_tokens,
    )  # fmt: skip


def _microbatches(settings: LearnSettings, batch: dict[str, Any]) -> dict[str, Any]:
    """Each array with a leading axis of microbatches; the rows of a prompt stay together."""
    count = len(batch["completion_ids"]) // settings.microbatch_sequences
    return jax.tree.map(lambda a: a.reshape(count, len(a) // count, *a.shape[1:]), batch)


def _score_all(
    policy: Policy, settings: LearnSettings, params: Any, batch: dict[str, Array]
) -> Array:
    def one(part: dict[str, Array]) -> Array:
        return _score(policy, settings, params, part)[0]

    scores = jax.lax.map(one, batch)
    return scores.reshape(-1, scores.shape[-1])


def _update(
    policy: Policy,
    optimizer: optax.GradientTransformation,
    settings: LearnSettings,
    state: TrainState,
    batch: dict[str, Array],
    reference: Array | None,
    lr: Array,
    kl_coef: Array,
) -> tuple[TrainState, dict[str, Array]]:
    def loss(params: Any, part: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        logprobs, entropy = _score(policy, settings, params, part)
        mask, weights = part["completion_mask"], part["token_weights"]
        token_loss = policy_gradient(
            logprobs, part["logprobs"], part["advantages"], use_ratio=settings.use_ratio
        )
        sums = _token_sums(jax.lax.stop_gradient(logprobs), part) | {"entropy": entropy * mask}
        if settings.use_kl:
            kl = k3(logprobs, part["reference"])
            token_loss = token_loss + kl_coef * kl
            sums["k3_kl"] = kl * mask
        # Where, not times: a padded token's loss may be inf, and 0 x inf is NaN.
        total = jnp.sum(jnp.where(mask > 0, weights * token_loss, 0.0))
        return total, jax.tree.map(jnp.sum, sums)

    if reference is not None:
        batch = batch | {"reference": reference.reshape(batch["completion_ids"].shape)}
    value, sums, gradient = _accumulate(policy, loss, state.params, batch)
    updates, moments = optimizer.update(gradient, state.moments, state.params)
    updates = jax.tree.map(lambda u: lr * u, updates)
    params = optax.apply_updates(state.params, updates)
    tokens = jnp.sum(batch["completion_mask"])
    metrics = _token_means(sums, tokens) | {
        "loss": value,
        "grad_norm": optax.tree.norm(gradient),
        "update_norm": optax.tree.norm(updates),
        "lr": lr,
    }
    metrics |= weight_change(policy, state.params, updates, params)
    return TrainState(params, moments), metrics


def _accumulate(
    policy: Policy,
    loss: Callable[..., Any],
    params: Any,
    parts: dict[str, Array],
) -> tuple[Array, dict[str, Array], Any]:
    """Sums over microbatches of the loss, of what describes it, and of the gradient."""

    def value_and_grad(params: Any, part: dict[str, Array]) -> tuple[Any, Any]:
        value, gradient = jax.value_and_grad(loss, has_aux=True)(params, part)
        # Split as the weights are: no device ever holds more of it than of them.
        return value, constrain_weights(gradient, LOGICAL_AXES, pieces(policy.config))

    def add(carry: Any, part: dict[str, Array]) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, carry, value_and_grad(params, part)), None

    first = jax.tree.map(lambda a: a[0], parts)
    if len(parts["completion_ids"]) == 1:
        (value, sums), gradient = value_and_grad(params, first)
    else:
        zero = jax.tree.map(
            lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(value_and_grad, params, first)
        )
        ((value, sums), gradient), _ = jax.lax.scan(add, zero, parts)
    return value, sums, gradient


def _token_sums(logprobs: Array, part: dict[str, Array]) -> dict[str, Array]:
    """Token by token, how the trainer's logprobs differ from the sampler's."""
    mask = part["completion_mask"]
    log_ratio = (logprobs - part["logprobs"]) * mask
    ratio = jnp.exp(log_ratio) * mask
    return {
        "approx_kl": -log_ratio,
        "rollout/logprob_abs_diff": jnp.abs(log_ratio),
        "ratio": ratio,
        "ratio_squared": ratio**2,
    }


def _token_means(sums: dict[str, Array], tokens: Array) -> dict[str, Array]:
    """Means over the batch's tokens; the effective sample size as a fraction of them.

    ESS = (sum w)^2 / (n sum w^2) with w the trainer/sampler ratio: 1 when the two agree.
    """
    means = {name: total / tokens for name, total in sums.items()}
    ratio, squared = means.pop("ratio"), means.pop("ratio_squared")
    return means | {"is_eff_sample_size": ratio**2 / squared}
