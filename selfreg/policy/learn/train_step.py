"""The train step as pure functions: the gradient of a batch's rows, and AdamW's step."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from selfreg.policy.learn.ewc import Anchor, penalty
from selfreg.policy.learn.microbatch import accumulate, read_prompts, score, summing, zero_sums
from selfreg.policy.learn.objective import Numbers, Objective, take, token_loss, token_means
from selfreg.policy.learn.optim import cap_updates
from selfreg.policy.learn.packing import Packing
from selfreg.policy.learn.weight_change import weight_change
from selfreg.policy.models.decoder import KeyValue
from selfreg.policy.models.lora import bind
from selfreg.policy.models.policy import Policy

Array = jax.Array


class TrainState(NamedTuple):
    """The state that an update changes: float32 weights or adapters, and the optimizer's moments.

    Attributes:
      params: The trained parameters.
      moments: The optimizer's state.
      averaged: The exponential moving average of `params` over updates. None: no average is kept.
        With LoRA it averages the adapters, not the merged weights.
    """

    params: Any
    moments: optax.OptState
    averaged: Any = None

    @property
    def kept(self) -> Any:
        """The parameters to measure and roll forward: the average if there is one."""
        return self.params if self.averaged is None else self.averaged


@dataclass(frozen=True, slots=True)
class LearnSettings:
    """The settings that an update is compiled for.

    `can_skip` lets an update be skipped because of its gradient's norm. The others come from the
    config.
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
    """The loss and gradient of some of a batch's rows. Those of all rows add up to the batch's.

    Attributes:
      value: The loss, float32 [].
      sums: Metrics summed over tokens, float32 [] each.
      weights: The loss's gradient, float32, shaped like the trained parameters.
    """

    value: Array
    sums: dict[str, Array]
    weights: Any


def score_options(settings: LearnSettings, temperature: Array) -> dict[str, Any]:
    """Return the keyword arguments of selfreg.policy.learn.microbatch.score."""
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
    """Return the loss and its gradient for the rows in the batch's slots.

    Args:
      policy: The policy that learns.
      settings: The run's settings.
      mesh: Its data devices split the rows of a microbatch.
      params: The trained parameters.
      base: The weights under the adapters. None if all weights are trained.
      batch: The fields of a Batch.
      reference: Float32 [B, T], the reference's logprobs. None: no KL penalty.
      numbers: The update's coefficients.
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
        # Clear padding first. Its values may be inf, and 0 x inf is NaN.
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
    """Return the loss scale for layers that compute in float16.

    The caller multiplies the loss by it and divides the gradient by it. The smallest positive
    float16 is 6e-8. The more tokens a batch has, the smaller each token's weight, and the backward
    pass would round its values to 0 (Micikevicius et al. 2018, arXiv:1710.03740, section 3.2). The
    scale brings the largest weight into [1, 2). It is a power of two, so scaling is exact.

    Args:
      token_weights: float32 [B, T].

    Returns:
      float32 []. It is 1 if all weights are 0.
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
    """Apply the optimizer's step for the gradients of all rows, and return the update's metrics.

    Args:
      policy: As in `gradient`.
      optimizer: Turns gradients into steps at a learning rate of 1.
      settings: The run's settings.
      state: The parameters and moments before the update.
      gradients: Gradients of parts of the batch, which together cover all its rows.
      base: As in `gradient`.
      mask: The batch's `completion_mask`.
      anchor: The anchor of EWC's penalty. None: no EWC.
      numbers: The update's coefficients.

    Returns:
      The state after the update, and metrics, float32 [] each.
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
    # The barrier makes XLA compute the metrics, which read the old weights, before it writes the
    # new weights in their place. Without it, XLA would keep a copy of the old weights.
    old, updates, metrics = jax.lax.optimization_barrier((state.params, updates, metrics))
    params = optax.apply_updates(old, updates)
    if averaged is not None:
        averaged = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, averaged, params)
    return TrainState(params, moments, averaged), metrics
