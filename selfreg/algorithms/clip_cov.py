"""Clip-Cov: stop the gradient of some of the tokens that reduce entropy most.

The candidates are the tokens whose covariance of logprob and advantage lies in a range. Clip-Cov
draws some of them at random and stops their gradient. The number drawn is a fraction of all tokens
learned from, but at least one if there is a candidate. The paper uses a fraction of 2e-4 on batches
of tens of thousands of tokens. A small batch needs a larger fraction.
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
    """The settings of GRPO, and those that choose the tokens to skip."""

    clip_cov_fraction: float = setting(
        2e-4, "fraction of tokens whose gradient is stopped", BETWEEN
    )
    clip_cov_low: float = setting(1.0, "lowest covariance of a stopped token", ABOVE_ZERO)
    clip_cov_high: float = setting(5.0, "highest covariance of a stopped token", ABOVE_ZERO)


def mark(
    settings: ClipCovSettings, logprobs: np.ndarray, batch: Batch, random: np.random.Generator
) -> np.ndarray:
    """Return float32 [B, T], 1 on the tokens whose gradient is stopped."""
    each = covariances(logprobs, batch).reshape(-1)
    within = (each >= settings.clip_cov_low) & (each <= settings.clip_cov_high)  # False for NaN
    candidates = np.flatnonzero(within)
    count = min(count_of(settings.clip_cov_fraction, batch), len(candidates))
    marks = np.zeros(each.size, np.float32)
    marks[random.choice(candidates, count, replace=False)] = 1
    return marks.reshape(logprobs.shape)


def token_loss(settings: ClipCovSettings, tokens: Tokens) -> tuple[Any, dict[str, Any]]:
    """Return the policy-gradient loss, 0 on marked tokens, and `marked_fraction`."""
    loss, described = usual.token_loss(settings, tokens)
    return loss * (1 - tokens.marks), described | {"marked_fraction": tokens.marks}


def check(settings: ClipCovSettings) -> dict[str, Rule]:
    """Return the policy-gradient rules, and require clip_cov_low < clip_cov_high."""
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
