"""One update, jitted over the mesh: microbatched gradients, AdamW, and what describes them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from selfreg.learn.losses import k3, policy_gradient
from selfreg.learn.microbatch import fold, read_prompts, score
from selfreg.learn.packing import Packing
from selfreg.mesh import replicated, weight_shardings
from selfreg.models.decoder import LOGICAL_AXES, KeyValue
from selfreg.models.policy import Policy, abstract_params
from selfreg.records import Batch

Array = jax.Array


class TrainState(NamedTuple):
    """What an update changes: float32 weights and the optimizer's moments."""

    params: Any
    moments: optax.OptState


@dataclass(frozen=True, slots=True)
class LearnSettings:
    """The settings that an update is compiled for."""

    dtype: str
    temperature: float
    chunk_tokens: int
    packing: Packing
    use_ratio: bool
    use_kl: bool


class Learner(NamedTuple):
    """The compiled functions of one run.

    Attributes:
      like: The shapes, types and shardings of a TrainState, to restore one by.
      init: Weights, on the host or the mesh -> TrainState on the mesh, moments at zero.
      update: (state, batch, reference logprobs, lr, kl_coef) -> (state, metrics). The state that
        goes in is donated. `reference logprobs` is None when the settings have no KL.
      logprobs: (weights, batch) -> float32 [B, T]: how a reference policy scores the completions.
    """

    like: TrainState
    init: Callable[[Any], TrainState]
    update: Callable[..., tuple[TrainState, dict[str, Array]]]
    logprobs: Callable[[Any, Batch], Array]


def make_learner(
    policy: Policy, mesh: Mesh, optimizer: optax.GradientTransformation, settings: LearnSettings
) -> Learner:
    """Compile-ready functions for one policy on one mesh."""

    def shardings(tree: Any) -> Any:
        return weight_shardings(mesh, tree, LOGICAL_AXES)

    def on_mesh(batch: Batch) -> dict[str, Array]:
        arrays = {name: getattr(batch, name) for name in Batch.__slots__}
        return jax.device_put(arrays, replicated(mesh))

    def with_shardings(tree: Any) -> Any:
        def leaf(a: jax.ShapeDtypeStruct, sharding: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding)

        return jax.tree.map(leaf, tree, shardings(tree))

    weights = abstract_params(policy)
    like = TrainState(
        with_shardings(weights), with_shardings(jax.eval_shape(optimizer.init, weights))
    )
    zero_moments = jax.jit(optimizer.init, out_shardings=shardings(like.moments))
    # A copy always: the update donates it, and the caller keeps its own.
    copy = jax.jit(partial(jax.tree.map, jnp.copy), out_shardings=shardings(like.params))

    def init(params: Any) -> TrainState:
        placed = copy(params)
        return TrainState(placed, zero_moments(placed))

    def update(
        state: TrainState, batch: Batch, reference: Array | None, lr: float, kl_coef: float
    ) -> tuple[TrainState, dict[str, Array]]:
        return jitted(state, on_mesh(batch), reference, jnp.float32(lr), jnp.float32(kl_coef))

    @partial(jax.jit, donate_argnums=0)
    def jitted(
        state: TrainState, batch: dict[str, Array], reference: Array | None, lr: Array, kl: Array
    ) -> tuple[TrainState, dict[str, Array]]:
        new, metrics = _update(policy, optimizer, settings, mesh, state, batch, reference, lr, kl)
        # The output keeps the layout of the input: nothing drifts from step to step.
        return jax.lax.with_sharding_constraint(new, shardings(new)), metrics

    scores = jax.jit(partial(_score_all, policy, settings, mesh), out_shardings=replicated(mesh))
    return Learner(like, init, update, lambda params, batch: scores(params, on_mesh(batch)))


def _score_all(
    policy: Policy, settings: LearnSettings, mesh: Mesh, params: Any, batch: dict[str, Array]
) -> Array:
    """Logprobs [B, T] of every completion, 0 on padding."""
    decoder, options = policy.decoder(params), _score_options(settings)
    prompts = read_prompts(decoder, batch, mesh, options["dtype"])

    def add(scores: Array, slots: Array) -> Array:
        logprobs, _ = score(decoder, prompts, batch, slots, **options)
        # Padding is put behind the end, and dropped.
        return scores.at[jnp.where(slots >= 0, slots, scores.size)].set(logprobs, mode="drop")

    shape = batch["completion_ids"].shape
    zero = jnp.zeros(batch["completion_ids"].size, jnp.float32)
    return fold(add, zero, batch["slots"], settings.packing, mesh).reshape(shape)


def _score_options(settings: LearnSettings) -> dict[str, Any]:
    return {
        "temperature": settings.temperature,
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
    lr: Array,
    kl_coef: Array,
) -> tuple[TrainState, dict[str, Array]]:
    options = _score_options(settings)
    extra = {} if reference is None else {"reference": reference}

    def read(params: Any) -> KeyValue:
        return read_prompts(policy.decoder(params), batch, mesh, options["dtype"])

    def loss(params: Any, prompts: KeyValue, slots: Array) -> tuple[Array, dict[str, Array]]:
        logprobs, entropy = score(policy.decoder(params), prompts, batch, slots, **options)
        part = _take(batch | extra, slots)
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

    value, sums, gradient = _accumulate(loss, state.params, batch, settings, mesh, read)
    updates, moments = optimizer.update(gradient, state.moments, state.params)
    updates = jax.tree.map(lambda u: lr * u, updates)
    params = optax.apply_updates(state.params, updates)
    tokens = jnp.sum(batch["completion_mask"])
    metrics = _token_means(sums, tokens) | {
        "loss": value,
        "grad_norm": optax.tree.norm(gradient),
        "update_norm": optax.tree.norm(updates),
        "update_to_weight_ratio": optax.tree.norm(updates) / optax.tree.norm(state.params),
        "bf16_changed_fraction": _bf16_changed(state.params, params),
        "lr": lr,
    }
    return TrainState(params, moments), metrics


def _accumulate(
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
        return jax.tree.map(jnp.add, carry, value_and_grad(params, prompts, slots))

    slots = batch["slots"][0, : settings.packing.microbatch_rows]
    # Sums of many small terms: in float32, whatever the layers compute in.
    zero = jax.tree.map(
        lambda a: jnp.zeros(a.shape, jnp.float32),
        jax.eval_shape(value_and_grad, params, prompts, slots),
    )
    (value, sums), (direct, wanted) = fold(add, zero, batch["slots"], settings.packing, mesh)
    (through,) = back(jax.tree.map(lambda g, a: g.astype(a.dtype), wanted, prompts))
    return value, sums, jax.tree.map(jnp.add, direct, through)


def _take(batch: dict[str, Array], slots: Array) -> dict[str, Array]:
    """What the loss needs of each slot's token: every entry [rows, T], 0 on padding."""
    shape = batch["completion_ids"].shape
    wide = batch | {"advantages": jnp.broadcast_to(batch["advantages"][:, None], shape)}
    names = ("completion_mask", "logprobs", "advantages", "token_weights", "reference")
    return {
        name: jnp.where(slots >= 0, wide[name].reshape(-1)[slots], 0.0)
        for name in names
        if name in wide
    }


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


def _bf16_changed(old: Any, new: Any) -> Array:
    """The fraction of weights whose bfloat16 rounding changed: what a sampler would see."""
    changed = [
        jnp.sum(a.astype(jnp.bfloat16) != b.astype(jnp.bfloat16), dtype=jnp.float32)
        for a, b in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True)
    ]
    return sum(changed, jnp.float32(0)) / sum(leaf.size for leaf in jax.tree.leaves(new))
