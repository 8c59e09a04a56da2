"""Elastic weight consolidation: a quadratic penalty on leaving a campaign's initial weights."""

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
    """The penalty's anchor: float32 trees with the nesting and sharding of the trained parameters.

    Attributes:
      params: theta*, the parameters at the campaign's start.
      fisher: F, the diagonal of the Fisher information at theta*.
    """

    params: Any
    fisher: Any


def fisher(
    policy: Policy, mesh: Mesh, params: Any, batch: dict[str, Array], options: dict[str, Any]
) -> Any:
    """Return the diagonal of the Fisher information, on completions that the policy drew itself.

    F_i = mean over completions of (d log pi(y) / d theta_i)^2, with log pi(y) = sum_t log pi(y_t)
    at the sampling temperature. The squares need each completion's own gradient, not their sum. So
    this runs one backward pass per completion, with its prompt, one after another.

    Args:
      policy: The policy whose weights or adapters `params` are.
      mesh: The mesh in force.
      params: theta*.
      batch: The fields of a Batch.
      options: The temperature, chunk_tokens and dtype of `score`.

    Returns:
      float32, with the nesting and sharding of `params`.
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
    """Return EWC's penalty and its gradient (Kirkpatrick et al. 2017, arXiv:1612.00796, eq. 3).

    The penalty is coef / 2 sum_i F_i (theta_i - theta*_i)^2. Its gradient is
    coef F_i (theta_i - theta*_i).

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
