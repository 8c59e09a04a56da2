"""A pair loss as one number a completion. Pure NumPy."""

import numpy as np

from selfreg.algorithms.parts.algorithm import Algorithm


def pair_advantages(
    algorithm: Algorithm, passed: np.ndarray, failed: np.ndarray, log_ratios: np.ndarray
) -> tuple[np.ndarray, dict[str, float]]:
    """Advantages that make a policy-gradient update of summed tokens the update of a pair loss.

    The pairs are every completion w that passed with every one l of the same group that did not.
    The loss is L = mean over pairs of f(d), d = log r_w - log r_l, r = pi / reference; f is the
    algorithm's `pair_loss`, for DPO -log sigmoid(beta d).

    A completion's logprob enters L through its pairs only, so that with N pairs
    dL / d log pi(y_w) = sum over its l of f'(d) / N, and the opposite for l. With the advantage
    A_i = -dL / d log pi(y_i) the gradient of -sum_i A_i log pi(y_i) is that of L.

    Args:
      algorithm: Has a pair_loss.
      passed: bool [P, G].
      failed: bool [P, G]; a completion without a verdict is in neither.
      log_ratios: float [P, G], log pi(y) - log reference(y), each summed over its tokens.

    Returns:
      Advantages float32 [P * G], zero where a group has no pair, and what describes the update:
      `loss`, L (0 without a pair); NAME/pairs; and where there are any NAME/accuracy, the fraction
      with a margin above 0, and NAME/margin, its mean. NAME is the algorithm's.
    """
    if algorithm.pair_loss is None:
        raise ValueError(f"learn.algorithm={algorithm.name!r} has no pair_loss")
    pairs = passed[:, :, None] & failed[:, None, :]
    count, name = int(pairs.sum()), algorithm.name
    if not count:
        return np.zeros(passed.size, np.float32), {"loss": 0.0, f"{name}/pairs": 0.0}
    log_ratios = log_ratios.astype(np.float64)
    each = algorithm.pair_loss(algorithm.settings, log_ratios[:, :, None] - log_ratios[:, None, :])
    push = pairs * -each.slope / count
    advantages = push.sum(axis=2) - push.sum(axis=1)
    metrics = {
        "loss": float(each.loss[pairs].mean()),
        f"{name}/pairs": float(count),
        f"{name}/accuracy": float((each.margin > 0)[pairs].mean()),
        f"{name}/margin": float(each.margin[pairs].mean()),
    }
    return advantages.reshape(-1).astype(np.float32), metrics
