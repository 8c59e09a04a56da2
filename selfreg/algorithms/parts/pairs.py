"""DPO on graded pairs, as one number a completion. Pure NumPy."""

import numpy as np


def pair_advantages(
    passed: np.ndarray, log_ratios: np.ndarray, beta: float
) -> tuple[np.ndarray, dict[str, float]]:
    """What makes a policy-gradient update of summed tokens a DPO update.

    DPO (Rafailov et al. 2023, arXiv:2305.18290, eq. 7), here over every pair of a completion w that
    passed and one l of the same group that did not:

        L = mean over pairs of -log sigmoid(h),  h = beta (log r_w - log r_l),  r = pi / reference.

    A completion's logprob enters L through its pairs only, so that with N pairs
    dL / d log pi(y_w) = -sum over its l of beta sigmoid(-h) / N, and the opposite for l. With
    the advantage A_i = -dL / d log pi(y_i) the gradient of -sum_i A_i log pi(y_i) is that of L.

    Args:
      passed: bool [P, G].
      log_ratios: float [P, G], log pi(y) - log reference(y), each summed over its tokens.
      beta: Above 0.

    Returns:
      Advantages float32 [P * G], zero where a group has no pair, and what describes the update:
      `loss`, L (0 without a pair); `dpo/pairs`; and where there are any `dpo/accuracy`, the
      fraction with h > 0, and `dpo/margin`, the mean of h.
    """
    pairs = passed[:, :, None] & ~passed[:, None, :]
    count = int(pairs.sum())
    if not count:
        return np.zeros(passed.size, np.float32), {"loss": 0.0, "dpo/pairs": 0.0}
    log_ratios = log_ratios.astype(np.float64)
    h = beta * (log_ratios[:, :, None] - log_ratios[:, None, :])
    # sigmoid(-h) = exp(-log(1 + exp(h))), without overflow.
    slope = pairs * beta * np.exp(-np.logaddexp(0, h)) / count
    advantages = slope.sum(axis=2) - slope.sum(axis=1)
    metrics = {
        "loss": float(np.logaddexp(0, -h)[pairs].mean()),
        "dpo/pairs": float(count),
        "dpo/accuracy": float((h > 0)[pairs].mean()),
        "dpo/margin": float(h[pairs].mean()),
    }
    return advantages.reshape(-1).astype(np.float32), metrics
