"""Tokens whose logprob and advantage rise together: they are what takes a policy's entropy away."""

import numpy as np

from selfreg.algorithms.parts.batch import Batch


def covariances(logprobs: np.ndarray, batch: Batch) -> np.ndarray:
    """Each token's part in the covariance of logprob and advantage over the batch.

    Cov(y_t) = (log pi(y_t) - mean log pi) (A(y_t) - mean A), means over the tokens that the update
    learns from (Cui et al. 2025, arXiv:2505.22617, eq. 8).

    Args:
      logprobs: float32 [B, T], of the policy that learns.
      batch: The batch.

    Returns:
      float64 [B, T], NaN where a token is not learned from.
    """
    learned = batch.token_weights > 0
    if not learned.any():
        return np.full(learned.shape, np.nan)
    advantages = np.broadcast_to(batch.advantages[:, None], learned.shape)
    away = [each.astype(np.float64) - each[learned].mean() for each in (logprobs, advantages)]
    return np.where(learned, away[0] * away[1], np.nan)


def count_of(fraction: float, batch: Batch) -> int:
    """How many tokens a fraction of those learned from is, rounded down; one at least."""
    return max(int(fraction * np.count_nonzero(batch.token_weights > 0)), 1)
