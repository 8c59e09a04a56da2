"""The covariance of logprob and advantage. Tokens where it is high reduce the policy's entropy."""

import numpy as np

from selfreg.algorithms.parts.batch import Batch


def covariances(logprobs: np.ndarray, batch: Batch) -> np.ndarray:
    """Return each token's term in the covariance of logprob and advantage over the batch.

    Cov(y_t) = (log pi(y_t) - mean log pi) (A(y_t) - mean A). The means run over the tokens that the
    update learns from (Cui et al. 2025, arXiv:2505.22617, eq. 8).

    Args:
      logprobs: float32 [B, T], the trained policy's.
      batch: The function reads its advantages and token weights.

    Returns:
      float64 [B, T], NaN on tokens that the update does not learn from.
    """
    learned = batch.token_weights > 0
    if not learned.any():
        return np.full(learned.shape, np.nan)
    advantages = np.broadcast_to(batch.advantages[:, None], learned.shape)
    away = [each.astype(np.float64) - each[learned].mean() for each in (logprobs, advantages)]
    return np.where(learned, away[0] * away[1], np.nan)


def count_of(fraction: float, batch: Batch) -> int:
    """Return this fraction of the number of tokens learned from, rounded down but at least 1."""
    return max(int(fraction * np.count_nonzero(batch.token_weights > 0)), 1)
