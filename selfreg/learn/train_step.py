"""The train step, as pure functions: the gradient of a batch's rows, and AdamW's step."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from selfreg.learn.ewc import Anchor, penalty
from selfreg.learn.microbatch import accumulate, read_prompts, score, summing, zero_sums
from selfreg.learn.objective import Numbers, Objective, take, token_loss, token_means
from selfreg.learn.optim import cap_updates
from selfreg.learn.packing import Packing
from selfreg.learn.weight_change import weight_change
from selfreg.models.decoder import KeyValue
from selfreg.models.lora import bind
from selfreg.models.policy import Policy

Array = jax.Array


class TrainState(NamedTuple):
    """What an update changes: float32 weights, or adapters, and the optimizer's moments.

    Attributes:
      params: What is trained.
      moments: The optimizer's.
      averaged: The mean of `params` over updates, late ones counting most; None where none is kept.
        With LoRA it is the adapters' mean, and not that of the weights that they make.
    """

    params: Any
    moments: optax.OptState
    averaged: Any = None

    @property
    def kept(self) -> Any:
        """What is measured and rolls forward: averaged weights where there are any."""
        return self.params if self.averaged is None else self.averaged


@dataclass(frozen=True, slots=True)
class LearnSettings:
    """The settings that an update is compiled for.

    `can_skip` lets an update be skipped by its gradient's norm; the others are those of the config.
    """

    dtype: str
    chunk_tokens: int
    packing: Packing
    objective: Objective = field(default_factory=Objective)
    ewc_coef: float = 0.0
    max_update_ratio: float = 0.0
    can_skip: bool = False
    average_decay: float = 0.0


class Gradient(NamedTuple):
    """Of some rows of a batch: sums, to be added to those of the others.

    Attributes:
      value: The loss, float32 [].
      sums: What describes it, float32 [] each.
      weights: The loss's gradient, float32, shaped like what is trained.
    """

    value: Array
    sums: dict[str, Array]
    weights: Any


def score_options(settings: LearnSettings, temperature: Array) -> dict[str, Any]:
    """The keyword arguments of selfreg.learn.microbatch.score."""
    return {
        "temperature": temperature,
        "chunk_tokens": settings.chunk_tokens,
        "dtype": jnp.dtype(settings.dtype),
    }


def gradient(
    policy: Policy,
    settings: LearnSettings,
    mesh: Mesh,
    params: Any,
    base: Any,
    batch: dict[str, Array],
    reference: Array | None,
    numbers: Numbers,
) -> Gradient:
    """The loss's gradient, of the rows in the batch's slots.

    Args:
      policy: What learns.
      settings: Of the run.
      mesh: Its data devices split the rows of a microbatch.
      params: What is trained.
      base: The weights that adapters are for; None where all weights learn.
      batch: The fields of a Batch.
      reference: Float32 [B, T], the reference's logprobs; None: no KL penalty.
      numbers: Of the update.
    """
    policy, options = bind(policy, base), score_options(settings, numbers.temperature)
    extra = {} if reference is None else {"reference": reference}
    scale = loss_scale(batch["token_weights"]) if settings.dtype == "float16" else None
    if scale is not None:
        batch = batch | {"token_weights": scale * batch["token_weights"]}

    def read(sums: Any) -> tuple[KeyValue, Any]:
        decoder, sums = summing(policy, params, sums)
        prompts, blocks = read_prompts(decoder, batch, mesh, options["dtype"], sums["blocks"])
        return prompts, sums | {"blocks": blocks}

    def loss(
        sums: Any, prompts: KeyValue, slots: Array
    ) -> tuple[tuple[Array, Any], dict[str, Array]]:
        decoder, sums = summing(policy, params, sums)
        scores = score(
            decoder, prompts, batch, slots, sums=sums["blocks"],
            train_entropy=settings.objective.trains_entropy, **options,
        )  # fmt: skip
        # Before anything else: what padding makes may be inf, and 0 x inf is NaN.
        logprobs, entropy = (jnp.where(slots >= 0, each, 0.0) for each in scores[:2])
        part = take(batch | extra, slots)
        losses, described = token_loss(
            settings.objective, logprobs, entropy, part, numbers, len(batch["advantages"])
        )
        value = jnp.sum(part["token_weights"] * losses)
        sums = sums | {"blocks": scores.sums}
        return (value, sums), jax.tree.map(jnp.sum, described)

    zero = zero_sums(policy, params)
    total = Gradient(*accumulate(loss, read, zero, batch["slots"], settings.packing, mesh))
    if scale is None:
        return total
    weights = jax.tree.map(lambda g: g / scale, total.weights)
    return total._replace(value=total.value / scale, weights=weights)


def loss_scale(token_weights: Array) -> Array:
    """What a loss is multiplied by, and its gradient divided by, where layers compute in float16.

    float16 ends at 6e-8: the more tokens a batch has, the less each weighs, and what backward
    passes carry would be rounded to 0 (Micikevicius et al. 2018, arXiv:1710.03740, section 3.2).
    This power of two, which changes no digit, brings the largest weight into [1, 2).

    Args:
      token_weights: float32 [B, T].

    Returns:
      float32 []; 1 where nothing weighs anything.
    """
    largest = jnp.max(token_weights)
    exponent = jnp.frexp(jnp.where(largest > 0, largest, 1.0))[1]
    return jnp.ldexp(jnp.float32(1), 1 - exponent)


def step(
    policy: Policy,
    optimizer: optax.GradientTransformation,
    settings: LearnSettings,
    state: TrainState,
    gradients: tuple[Gradient, ...],
    base: Any,
    mask: Array,
    anchor: Anchor | None,
    numbers: Numbers,
) -> tuple[TrainState, dict[str, Array]]:
    """The optimizer's step by the gradients of all rows together, and what describes the update.

    Args:
      policy: As in `gradient`.
      optimizer: What makes steps of gradients, at a learning rate of 1.
      settings: Of the run.
      state: Weights and moments.
      gradients: Of rows that together are the batch.
      base: As in `gradient`.
      mask: The batch's `completion_mask`.
      anchor: What EWC holds on to, if anything.
      numbers: Of the update.
    """
    value, sums, gradient = jax.tree.map(lambda *parts: sum(parts[1:], parts[0]), *gradients)
    metrics = token_means(sums, jnp.sum(mask)) | {"loss": value, "lr": numbers.lr}
    if anchor is not None:
        metrics["ewc_penalty"], pull = penalty(anchor, state.params, settings.ewc_coef)
        gradient = jax.tree.map(jnp.add, gradient, pull)
    updates, moments = optimizer.update(gradient, state.moments, state.params)
    updates = jax.tree.map(lambda u: numbers.lr * u, updates)
    if settings.max_update_ratio:
        updates, metrics["update_capped_fraction"] = cap_updates(
            updates, state.params, settings.max_update_ratio
        )
    metrics["grad_norm"] = optax.tree.norm(gradient)
    averaged, decay = state.averaged, jnp.float32(settings.average_decay)
    if settings.can_skip:
        made = metrics["grad_norm"] <= numbers.most_norm
        metrics["update_skipped"] = 1.0 - made
        moments = jax.tree.map(partial(jnp.where, made), moments, state.moments)
        updates = jax.tree.map(lambda u: jnp.where(made, u, 0.0), updates)
        decay = jnp.where(made, decay, 1.0)
    metrics["update_norm"] = optax.tree.norm(updates)
    moved = optax.apply_updates(state.params, updates)
    metrics |= weight_change(bind(policy, base), state.params, updates, moved)
    # The barrier: metrics first, which read the old weights, and then the new ones in their place.
    # XLA would else keep a copy of the old ones.
    old, updates, metrics = jax.lax.optimization_barrier((state.params, updates, metrics))
    params = optax.apply_updates(old, updates)
    if averaged is not None:
        averaged = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, averaged, params)
    return TrainState(params, moments, averaged), metrics
