"""Elastic weight consolidation: a quadratic hold on the weights that a campaign started from."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from selfreg.policy.learn.microbatch import read_prompts, score, summing, zero_sums
from selfreg.policy.learn.packing import EMPTY
from selfreg.policy.models.policy import Policy

Array = jax.Array
OF_PROMPTS = ("prompt_ids", "prompt_lengths")


class Anchor(NamedTuple):
    """What the penalty holds on to: float32 trees, nested and split as what is trained.

    Attributes:
      params: theta*, the campaign's start.
      fisher: F, the diagonal of its Fisher information.
    """

    params: Any
    fisher: Any


def fisher(
    policy: Policy, mesh: Mesh, params: Any, batch: dict[str, Array], options: dict[str, Any]
) -> Any:
    """The diagonal of the Fisher information, on completions that the policy drew itself.

    F_i = mean over completions of (d log pi(y) / d theta_i)^2, log pi(y) = sum_t log pi(y_t), at
    the sampling temperature. A square of each completion's own gradient cannot be had from their
    sum: this makes one backward pass a completion, with its prompt, one after another.

    Args:
      policy: Whose weights, or adapters, these are.
      mesh: The mesh in force.
      params: theta*.
      batch: The fields of a Batch.
      options: temperature, chunk_tokens and dtype: see score.

    Returns:
      float32, nested and split as `params`.
    """
    count, longest = batch["completion_ids"].shape
    group = count // len(batch["prompt_lengths"])

    def add(index: Array, total: Any) -> Any:
        alone = {
            name: jax.lax.dynamic_slice_in_dim(
                batch[name], index // group if name in OF_PROMPTS else index, 1
            )
            for name in (*OF_PROMPTS, "completion_ids", "completion_mask")
        }
        slots = jnp.where(alone["completion_mask"] > 0, jnp.arange(longest), EMPTY)

        def logprob(sums: Any) -> tuple[Array, Any]:
            decoder, sums = summing(policy, params, sums)
            prompts, blocks = read_prompts(decoder, alone, mesh, options["dtype"], sums["blocks"])
            scores = score(decoder, prompts, alone, slots, sums=blocks, **options)
            logprobs = jnp.where(slots >= 0, scores.logprobs, 0.0)
            return jnp.sum(logprobs), sums | {"blocks": scores.sums}

        (value, _), back = jax.vjp(logprob, zero)
        (gradient,) = back((jnp.ones_like(value), zero))
        return jax.tree.map(lambda t, g: t + g**2 / count, total, gradient)

    zero = zero_sums(policy, params)
    return jax.lax.fori_loop(0, count, add, zero)


def penalty(anchor: Anchor, params: Any, coef: float) -> tuple[Array, Any]:
    """EWC's penalty and its gradient (Kirkpatrick et al. 2017, arXiv:1612.00796, eq. 3).

    coef / 2 sum_i F_i (theta_i - theta*_i)^2, whose gradient is coef F_i (theta_i - theta*_i).

    Args:
      anchor: theta* and F.
      params: theta.
      coef: lambda.

    Returns:
      The penalty, a float32 scalar, and its gradient, nested as `params`.
    """
    away = jax.tree.map(jnp.subtract, params, anchor.params)
    pull = jax.tree.map(lambda f, d: coef * f * d, anchor.fisher, away)
    parts = jax.tree.map(lambda p, d: jnp.sum(p * d) / 2, pull, away)
    return sum(jax.tree.leaves(parts), jnp.float32(0)), pull
