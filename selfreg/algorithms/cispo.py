"""CISPO: clip the importance weight and keep every token's gradient.

The paper bounds the weight from above only and tunes the bound. The default bound here is 5
(clip_high=4). Khatri et al. 2025 (ScaleRL, arXiv:2510.13786) find CISPO insensitive to bounds from
4 to 8.
"""

from typing import Any

from selfreg.algorithms.parts.algorithm import Tokens
from selfreg.algorithms.parts.policy_gradient import masked, policy_gradient, ratio_of
from selfreg.algorithms.parts.settings import Settings


def token_loss(settings: Settings, tokens: Tokens) -> tuple[Any, dict[str, Any]]:
    """Return the loss `losses.clipped_weight` of each token, and `clip_fraction`.

    `clip_fraction` is 1 on tokens whose weight the clip changes.
    """
    import jax.numpy as jnp

    from selfreg.algorithms.parts import losses

    log_ratio = ratio_of(settings, tokens)
    loss = losses.clipped_weight(
        tokens.logprobs, log_ratio, tokens.advantages,
        clip_low=settings.clip_low, clip_high=settings.clip_high,
    )  # fmt: skip
    loss, described = masked(settings, tokens, loss)
    low, high = losses.clip_range(settings.clip_low, settings.clip_high)
    ratio = jnp.exp(log_ratio)
    clipped = ((ratio < low) | (ratio > high)).astype(jnp.float32)
    return loss, described | {"clip_fraction": clipped * tokens.mask}


ALGORITHM = policy_gradient(
    "MiniMax 2025, arXiv:2506.13585, eq. 4 and 5",
    Settings(
        use_score_centering=True,
        use_std_normalization=True,
        use_importance_sampling_ratio=True,
        clip_high=4.0,
    ),
    token_loss=token_loss,
    fixed=("use_importance_sampling_ratio", "importance_ratio_cap", "dual_clip"),
)
