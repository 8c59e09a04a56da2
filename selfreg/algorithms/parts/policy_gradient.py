"""The policy-gradient loss as settings describe it, and which settings go together."""

from collections.abc import Mapping
from typing import Any

from selfreg.algorithms.parts.advantages import group_advantages
from selfreg.algorithms.parts.algorithm import Algorithm, Tokens
from selfreg.algorithms.parts.settings import Settings
from selfreg.keys import Rule, at_least


def policy_gradient(paper: str, settings: Settings | None = None, **others: Any) -> Algorithm:
    """A policy-gradient algorithm: advantages by group, and a loss by token.

    Args:
      paper: See Algorithm.
      settings: What it sets; None: as REINFORCE.
      others: Fields of Algorithm that are its own, such as `token_loss`.
    """
    usual = {"advantages": group_advantages, "token_loss": token_loss, "check": check}
    return Algorithm(paper, settings or Settings(), **{**usual, **others})


def token_loss(settings: Settings, tokens: Tokens) -> tuple[Any, dict[str, Any]]:
    """The loss of each token: see selfreg.algorithms.parts.losses.policy_gradient.

    Returns:
      float32 [rows, T], and `clip_fraction` where there is a clip.
    """
    from selfreg.algorithms.parts import losses  # jax, which settings are read without

    log_ratio = ratio_of(settings, tokens)
    clip = {"clip_low": settings.clip_low, "clip_high": settings.clip_high}
    loss = losses.policy_gradient(
        tokens.logprobs, log_ratio, tokens.advantages,
        ratio_cap=settings.importance_ratio_cap, **clip,
    )  # fmt: skip
    described = {}
    if log_ratio is not None and any(clip.values()):
        clipped = losses.is_clipped(log_ratio, tokens.advantages, **clip)
        described["clip_fraction"] = clipped * tokens.mask
    return loss, described


def ratio_of(settings: Settings, tokens: Tokens) -> Any:
    """Log r of each token, or of its completion; None where the settings have no ratio."""
    from selfreg.algorithms.parts.losses import completion_mean

    if not settings.use_importance_sampling_ratio:
        return None
    log_ratio = tokens.logprobs - tokens.sampler_logprobs
    if settings.ratio_level == "sequence":
        return completion_mean(log_ratio, tokens.completion, tokens.mask, tokens.count)
    return log_ratio


def check(settings: Settings) -> Mapping[str, Rule]:
    """Which keys of a config go with these settings."""
    ratio = settings.use_importance_sampling_ratio
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
        "learn.clip_low": clip_rule,
        "learn.clip_high": clip_rule,
    }
    if settings.use_score_centering:
        rules["rollout.group_size"] = compares("learn.use_score_centering=True")
    return rules


def compares(where: str) -> Rule:
    """The rule for rollout.group_size where completions of a group are compared."""
    lowest = at_least(2)
    return lowest._replace(
        words=f"{lowest.words} where {where}: the completions of a group are compared"
    )
