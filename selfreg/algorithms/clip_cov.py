"""Clip-Cov: some of the tokens that cost most entropy are not learned from.

Of the tokens whose covariance of logprob and advantage lies in a range, as many as a fraction of
all are drawn at random, and their gradient is stopped. The paper takes 2e-4 of tokens by the ten
thousand; a small batch needs a larger fraction, and one token is always taken where there is any.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from selfreg.algorithms.parts import policy_gradient as usual
from selfreg.algorithms.parts.algorithm import Tokens
from selfreg.algorithms.parts.batch import Batch
from selfreg.algorithms.parts.covariance import count_of, covariances
from selfreg.algorithms.parts.keys import ABOVE_ZERO, BETWEEN, Rule
from selfreg.algorithms.parts.settings import Settings, setting


@dataclass(frozen=True)
class ClipCovSettings(Settings):
    """What GRPO reads, and which tokens are passed over."""

    clip_cov_fraction: float = setting(2e-4, "of tokens, whose gradient is stopped", BETWEEN)
    clip_cov_low: float = setting(1.0, "least covariance of such a token", ABOVE_ZERO)
    clip_cov_high: float = setting(5.0, "greatest covariance of such a token", ABOVE_ZERO)


def mark(
    settings: ClipCovSettings, logprobs: np.ndarray, batch: Batch, random: np.random.Generator
) -> np.ndarray:
    """1 on the tokens that are passed over: float32 [B, T]."""
    each = covariances(logprobs, batch).reshape(-1)
    within = (each >= settings.clip_cov_low) & (each <= settings.clip_cov_high)  # NaN is not
    candidates = np.flatnonzero(within)
    count = min(count_of(settings.clip_cov_fraction, batch), len(candidates))
    marks = np.zeros(each.size, np.float32)
    marks[random.choice(candidates, count, replace=False)] = 1
    return marks.reshape(logprobs.shape)


def token_loss(settings: ClipCovSettings, tokens: Tokens) -> tuple[Any, dict[str, Any]]:
    """The usual loss, 0 on marked tokens; `marked_fraction`."""
    loss, described = usual.token_loss(settings, tokens)
    return loss * (1 - tokens.marks), described | {"marked_fraction": tokens.marks}


def check(settings: ClipCovSettings) -> dict[str, Rule]:
    """The usual rules, and a range that is one."""
    low = settings.clip_cov_low
    ordered = Rule(lambda high: high > low, f"above learn.clip_cov_low={low:g}")
    return {**usual.check(settings), "learn.clip_cov_high": ordered}


ALGORITHM = usual.policy_gradient(
    "Cui et al. 2025, arXiv:2505.22617, eq. 10 and 11",
    ClipCovSettings(use_score_centering=True, use_std_normalization=True),
    token_loss=token_loss,
    check=check,
    mark=mark,
)
