"""KL-Cov: penalize the KL divergence from the sampler on the tokens that reduce entropy most.

KL-Cov selects the fraction of tokens with the highest covariance of logprob and advantage. Each of
them gets a penalty on KL(sampler || policy), estimated by k3 at the token: r - 1 - log r with
r = policy / sampler. The penalty is 0 until the policy has moved since it sampled, so KL-Cov needs
several updates per batch.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from selfreg.algorithms.parts import policy_gradient as usual
from selfreg.algorithms.parts.algorithm import Tokens
from selfreg.algorithms.parts.batch import Batch
from selfreg.algorithms.parts.covariance import count_of, covariances
from selfreg.algorithms.parts.keys import ABOVE_ZERO, BETWEEN, Rule, at_least
from selfreg.algorithms.parts.settings import Settings, setting


@dataclass(frozen=True)
class KlCovSettings(Settings):
    """The settings of GRPO, the fraction of tokens to penalize, and the penalty's weight."""

    kl_cov_fraction: float = setting(2e-3, "fraction of tokens with a KL penalty", BETWEEN)
    kl_cov_coef: float = setting(1.0, "weight of their KL penalty", ABOVE_ZERO)


def mark(
    settings: KlCovSettings, logprobs: np.ndarray, batch: Batch, random: np.random.Generator
) -> np.ndarray:
    """Return float32 [B, T], 1 on the tokens with a KL penalty. `random` is not used."""
    each = covariances(logprobs, batch).reshape(-1)
    ranked = np.argsort(-each, kind="stable")  # NaN comes last
    count = min(count_of(settings.kl_cov_fraction, batch), np.count_nonzero(~np.isnan(each)))
    marks = np.zeros(each.size, np.float32)
    marks[ranked[:count]] = 1
    return marks.reshape(logprobs.shape)


def token_loss(settings: KlCovSettings, tokens: Tokens) -> tuple[Any, dict[str, Any]]:
    """Return the policy-gradient loss + kl_cov_coef x k3 on marked tokens, `marked_fraction`."""
    from selfreg.algorithms.parts.losses import k3

    loss, described = usual.token_loss(settings, tokens)
    held = tokens.marks * k3(tokens.sampler_logprobs, tokens.logprobs)
    return loss + settings.kl_cov_coef * held, described | {"marked_fraction": tokens.marks}


def check(settings: KlCovSettings) -> dict[str, Rule]:
    """Return the policy-gradient rules, and require more than one update per batch."""
    words = "at least 2 under kl_cov: its penalty is 0 until the policy has moved"
    several = at_least(2)._replace(words=words)
    return {**usual.check(settings), "learn.updates_per_batch": several}


ALGORITHM = usual.policy_gradient(
    "Cui et al. 2025, arXiv:2505.22617, eq. 12 and 13",
    KlCovSettings(
        use_score_centering=True, use_std_normalization=True, use_importance_sampling_ratio=True
    ),
    token_loss=token_loss,
    check=check,
    mark=mark,
)
