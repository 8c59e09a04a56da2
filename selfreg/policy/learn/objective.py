"""The objective of an update: the loss of each token of a microbatch, and its metrics."""

from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp

from selfreg.algorithms.parts.algorithm import Algorithm, Tokens
from selfreg.algorithms.parts.losses import k3

Array = jax.Array


class Numbers(NamedTuple):
    """Float32 scalars that may change from update to update without recompiling.

    Attributes:
      lr: The learning rate.
      kl_coef: Weight of the KL penalty.
      temperature: The sampler's temperature.
      entropy_coef: Weight of the entropy bonus. Read only if the bonus follows the entropy.
      most_norm: Norm of the gradient above which the update is skipped. Read only if updates can be
        skipped.
    """

    lr: Array
    kl_coef: Array
    temperature: Array
    entropy_coef: Array
    most_norm: Array


@dataclass(frozen=True, slots=True)
class Objective:
    """The terms of a token's loss.

    Attributes:
      algorithm: Gives the loss of each token. REINFORCE by default.
      entropy_coef: As config.learn.entropy_coef.
      follows_entropy: Take the weight of the entropy bonus from `Numbers` instead of entropy_coef.
    """

    algorithm: Algorithm = field(default_factory=lambda: Algorithm("Williams 1992"))
    entropy_coef: float = 0.0
    follows_entropy: bool = False

    @property
    def trains_entropy(self) -> bool:
        """Whether the loss has an entropy bonus."""
        return self.entropy_coef > 0 or self.follows_entropy


def token_loss(
    objective: Objective,
    logprobs: Array,
    entropy: Array,
    part: dict[str, Array],
    numbers: Numbers,
    count: int,
) -> tuple[Array, dict[str, Array]]:
    """Return the loss of each token: algorithm's loss - entropy_coef x entropy + kl_coef x k3.

    The entropy bonus (Williams & Peng 1991; Mnih et al. 2016, arXiv:1602.01783, section 4) keeps
    the policy from becoming deterministic. The k3 term is present if `part` has a reference's
    logprobs.

    Args:
      objective: The terms of the loss.
      logprobs: float32 [rows, T], 0 on padding.
      entropy: float32 [rows, T] in nats, 0 on padding.
      part: The result of `take`.
      numbers: The update's coefficients.
      count: B.

    Returns:
      float32 [rows, T], and per-token metrics, 0 on padding, to be summed.
    """
    sums = _mismatch(jax.lax.stop_gradient(logprobs), part) | {"entropy": entropy}
    algorithm = objective.algorithm
    tokens = Tokens(
        logprobs, part["logprobs"], part["advantages"], part["completion_mask"],
        part["completion"], count, part.get("marks"),
    )  # fmt: skip
    loss, described = algorithm.token_loss(algorithm.settings, tokens)
    sums |= described
    if objective.trains_entropy:
        coef = numbers.entropy_coef if objective.follows_entropy else objective.entropy_coef
        loss = loss - coef * entropy
    if "reference" in part:
        sums["k3_kl"] = k3(logprobs, part["reference"])
        loss = loss + numbers.kl_coef * sums["k3_kl"]
    return loss, sums


def take(batch: dict[str, Array], slots: Array) -> dict[str, Array]:
    """Gather the fields that the loss needs for each slot's token.

    Args:
      batch: The fields of a Batch, and optionally the reference's logprobs and the algorithm's
        marks.
      slots: int32 [rows, T]. See selfreg.policy.learn.packing.

    Returns:
      The fields by name, each [rows, T] and 0 on padding, and `completion`, int32, the index of
      each token's completion in the batch.
    """
    shape = batch["completion_ids"].shape
    wide = batch | {"advantages": jnp.broadcast_to(batch["advantages"][:, None], shape)}
    names = ("completion_mask", "logprobs", "advantages", "token_weights", "reference", "marks")
    taken = {
        name: jnp.where(slots >= 0, wide[name].reshape(-1)[slots], 0.0)
        for name in names
        if name in wide
    }
    return taken | {"completion": jnp.maximum(slots, 0) // shape[1]}


def _mismatch(logprobs: Array, part: dict[str, Array]) -> dict[str, Array]:
    """Return per-token metrics of how the trainer's logprobs differ from the sampler's."""
    mask = part["completion_mask"]
    log_ratio = (logprobs - part["logprobs"]) * mask
    ratio = jnp.exp(log_ratio) * mask
    return {
        "approx_kl": -log_ratio,
        "rollout/logprob_abs_diff": jnp.abs(log_ratio),
        "rollout/k3_kl": (jnp.exp(log_ratio) - 1 - log_ratio) * mask,
        "ratio": ratio,
        "ratio_squared": ratio**2,
    }


def token_means(sums: dict[str, Array], tokens: Array) -> dict[str, Array]:
    """Divide the sums by the number of tokens, and add the effective sample size.

    ESS = (sum w)^2 / (n sum w^2), where w is the ratio of trainer to sampler and n the number of
    tokens. It is 1 if the two agree.
    """
    means = {name: total / tokens for name, total in sums.items()}
    ratio, squared = means.pop("ratio"), means.pop("ratio_squared")
    return means | {"is_eff_sample_size": ratio**2 / squared}
