"""The policy-gradient loss that the settings describe, and rules for combining settings."""

from collections.abc import Mapping
from typing import Any

from selfreg.algorithms.parts.advantages import group_advantages
from selfreg.algorithms.parts.algorithm import Algorithm, Tokens
from selfreg.algorithms.parts.keys import Rule, at_least
from selfreg.algorithms.parts.settings import Settings


def policy_gradient(paper: str, settings: Settings | None = None, **others: Any) -> Algorithm:
    """Return a policy-gradient algorithm: advantages per group, and a loss per token.

    Args:
      paper: See Algorithm.
      settings: The algorithm's settings. None: those of REINFORCE.
      others: Fields of Algorithm to replace, such as `token_loss`.
    """
    usual = {"advantages": group_advantages, "token_loss": token_loss, "check": check}
    return Algorithm(paper, settings or Settings(), **{**usual, **others})


def token_loss(settings: Settings, tokens: Tokens) -> tuple[Any, dict[str, Any]]:
    """Return the loss of each token, as selfreg.algorithms.parts.losses.policy_gradient defines it.

    Returns:
      float32 [rows, T], and per-token metrics: `clip_fraction` if the settings have a clip, and
      `masked_fraction` if they have a mask.
    """
    from selfreg.algorithms.parts import losses  # imports jax; configs must load without it

    log_ratio = ratio_of(settings, tokens)
    clip = {"clip_low": settings.clip_low, "clip_high": settings.clip_high}
    loss = losses.policy_gradient(
        tokens.logprobs, log_ratio, tokens.advantages,
        ratio_cap=settings.importance_ratio_cap, dual_clip=settings.dual_clip, **clip,
    )  # fmt: skip
    loss, described = masked(settings, tokens, loss)
    if log_ratio is not None and any(clip.values()):
        clipped = losses.is_clipped(log_ratio, tokens.advantages, **clip)
        described["clip_fraction"] = clipped * tokens.mask
    return loss, described


def masked(settings: Settings, tokens: Tokens, loss: Any) -> tuple[Any, dict[str, Any]]:
    """Set the loss of masked tokens to 0, and return it with `masked_fraction` if there is a mask.

    Masked tokens still count in the divisors of token weights. So masking some tokens does not
    raise the weight of the others.
    """
    import jax.numpy as jnp

    from selfreg.algorithms.parts.losses import completion_mean, completion_sum, is_within

    if not (settings.mask_low or settings.mask_high):
        return loss, {}
    log_ratio = tokens.logprobs - tokens.sampler_logprobs
    whole = {"sequence": completion_sum, "geometric": completion_mean}.get(settings.mask_level)
    if whole is not None:
        log_ratio = whole(log_ratio, tokens.completion, tokens.mask, tokens.total)
    within = is_within(log_ratio, low=settings.mask_low, high=settings.mask_high)
    return jnp.where(within > 0, loss, 0.0), {"masked_fraction": (1 - within) * tokens.mask}


def ratio_of(settings: Settings, tokens: Tokens) -> Any:
    """Return log r of each token or of its completion, or None if the settings use no ratio."""
    from selfreg.algorithms.parts.losses import completion_mean

    if not settings.use_importance_sampling_ratio:
        return None
    log_ratio = tokens.logprobs - tokens.sampler_logprobs
    if settings.ratio_level == "sequence":
        return completion_mean(log_ratio, tokens.completion, tokens.mask, tokens.total)
    return log_ratio


def check(settings: Settings) -> Mapping[str, Rule]:
    """Return the rules that these settings imply for keys of the config."""
    ratio = settings.use_importance_sampling_ratio
    masks = settings.mask_low > 0 or settings.mask_high > 0
    clip_rule = Rule(
        lambda clip: clip == 0 or (ratio and not settings.importance_ratio_cap),
        "0 unless learn.use_importance_sampling_ratio=True and learn.importance_ratio_cap=0",
    )
    rules = {
        "learn.use_leave_one_out": Rule(
            lambda on: not on or settings.use_score_centering,
            "False unless learn.use_score_centering=True",
        ),
        "learn.ratio_level": Rule(
            lambda level: ratio or level == "token",
            "token unless learn.use_importance_sampling_ratio=True",
        ),
        "learn.importance_ratio_cap": Rule(
            lambda cap: cap == 0 or ratio, "0 unless learn.use_importance_sampling_ratio=True"
        ),
        "learn.dual_clip": Rule(
            lambda most: clip_rule.holds(most) and (most == 0 or most > 1 + settings.clip_high),
            f"{clip_rule.words}, and above 1 + learn.clip_high",
        ),
        "learn.mask_level": Rule(
            lambda level: level == "token" or masks,
            "token unless learn.mask_low or learn.mask_high is set",
        ),
        "learn.clip_low": clip_rule,
        "learn.clip_high": clip_rule,
    }
    if settings.use_score_centering:
        rules["rollout.group_size"] = compares("learn.use_score_centering=True")
    return rules


def compares(where: str) -> Rule:
    """Return the rule for rollout.group_size when completions of a group are compared."""
    lowest = at_least(2)
    return lowest._replace(
        words=f"{lowest.words} where {where}: the completions of a group are compared"
    )
