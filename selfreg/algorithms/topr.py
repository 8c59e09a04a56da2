"""TOPR: weight good completions by 1, and bad ones by their tapered ratio min(pi / mu, 1).

The paper's rewards are {-1, +1} (learn.reward_coding=minus_one_one). With {0, 1} and no centering,
no completion has a negative advantage.
"""

from typing import Any

from selfreg.algorithms.parts.algorithm import Tokens
from selfreg.algorithms.parts.policy_gradient import policy_gradient
from selfreg.algorithms.parts.settings import Settings


def token_loss(settings: Settings, tokens: Tokens) -> tuple[Any, dict[str, Any]]:
    """Return the loss `losses.tapered` of each token, with the ratio of its whole completion."""
    from selfreg.algorithms.parts.losses import completion_sum, tapered

    log_ratio = tokens.logprobs - tokens.sampler_logprobs
    whole = completion_sum(log_ratio, tokens.completion, tokens.mask, tokens.total)
    return tapered(tokens.logprobs, whole, tokens.advantages), {}


ALGORITHM = policy_gradient(
    "Le Roux et al. 2025, arXiv:2503.14286, section 3",
    Settings(),
    token_loss=token_loss,
    fixed=(
        "use_importance_sampling_ratio", "ratio_level", "importance_ratio_cap", "clip_low",
        "clip_high", "dual_clip", "mask_low", "mask_high", "mask_level",
    ),
)  # fmt: skip
