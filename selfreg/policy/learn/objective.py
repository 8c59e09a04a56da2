"""What an update minimizes: the loss of each token of a microbatch, and what describes it."""

from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp

from selfreg.algorithms.parts.algorithm import Algorithm, Tokens
from selfreg.algorithms.parts.losses import k3

Array = jax.Array


class Numbers(NamedTuple):
    """What may differ from update to update without a new program: float32 scalars.

    Attributes:
      lr: The learning rate.
      kl_coef: Weight of the KL penalty.
      temperature: The sampler's.
      entropy_coef: Weight of the entropy bonus, where it follows the entropy.
      most_norm: Of the gradient, above which the update is skipped, where that can be.
    """

    lr: Array
    kl_coef: Array
    temperature: Array
    entropy_coef: Array
    most_norm: Array


@dataclass(frozen=True, slots=True)
class Objective:
    """What a token's loss is made of.

    Attributes:
      algorithm: Configured: gives the loss of each token. REINFORCE by default.
      entropy_coef: As config.learn.entropy_coef.
      follows_entropy: The entropy bonus has the weight that `Numbers` gives, not entropy_coef.
    """

    algorithm: Algorithm = field(default_factory=lambda: Algorithm("Williams 1992"))
    entropy_coef: float = 0.0
    follows_entropy: bool = False

    @property
    def trains_entropy(self) -> bool:
        """Whether there is an entropy bonus."""
        return self.entropy_coef > 0 or self.follows_entropy


def token_loss(
    objective: Objective,
    logprobs: Array,
    entropy: Array,
    part: dict[str, Array],
    numbers: Numbers,
    count: int,
) -> tuple[Array, dict[str, Array]]:
    """The loss of each token: the algorithm's, - entropy_coef x entropy, + kl_coef x k3.

    The entropy bonus (Williams & Peng 1991; Mnih et al. 2016, arXiv:1602.01783, section 4) rewards
    the policy for staying undecided. k3 is there where `part` has a reference's logprobs.

    Args:
      objective: What the loss is made of.
      logprobs: float32 [rows, T], 0 on padding.
      entropy: float32 [rows, T] in nats, 0 on padding.
      part: What `take` took.
      numbers: Of the update.
      count: B.

    Returns:
      float32 [rows, T], and metrics by token, 0 on padding, to be summed.
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
    """What the loss needs of each slot's token: every entry [rows, T], 0 on padding.

    Args:
      batch: The fields of a Batch, and where there are any the reference's logprobs and the
        algorithm's marks.
      slots: int32 [rows, T], see selfreg.policy.learn.packing.

    Returns:
      The fields by name, and as `completion`, int32, the line of the batch that each token is of.
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
    """Token by token, how the trainer's logprobs differ from the sampler's."""
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
    """Means over the batch's tokens; the effective sample size as a fraction of them.

    ESS = (sum w)^2 / (n sum w^2) with w the trainer/sampler ratio: 1 when the two agree.
    """
    means = {name: total / tokens for name, total in sums.items()}
    ratio, squared = means.pop("ratio"), means.pop("ratio_squared")
    return means | {"is_eff_sample_size": ratio**2 / squared}
