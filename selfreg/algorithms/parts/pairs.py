"""Advantages that turn a pair loss into a policy-gradient update. Pure NumPy."""

import numpy as np

from selfreg.algorithms.parts.algorithm import Algorithm


def pair_advantages(
    algorithm: Algorithm, passed: np.ndarray, failed: np.ndarray, log_ratios: np.ndarray
) -> tuple[np.ndarray, dict[str, float]]:
    """Return advantages whose policy-gradient update on summed tokens is the pair loss's update.

    The pairs are all (w, l) of one group where completion w passed and completion l did not. The
    loss is L = mean over pairs of f(d), with d = log r_w - log r_l and r = pi / reference. f is the
    algorithm's `pair_loss`. For DPO, f(d) = -log sigmoid(beta d).

    A completion's logprob enters L only through its pairs. With N pairs,
    dL / d log pi(y_w) = sum over its l of f'(d) / N, and dL / d log pi(y_l) has the opposite sign.
    With advantages A_i = -dL / d log pi(y_i), the gradient of -sum_i A_i log pi(y_i) equals the
    gradient of L.

    Args:
      algorithm: An algorithm with a pair_loss.
      passed: bool [P, G].
      failed: bool [P, G]. An unjudged completion has neither passed nor failed.
      log_ratios: float [P, G], log pi(y) - log reference(y), each summed over its tokens.

    Returns:
      Advantages float32 [P * G], zero where a group has no pair, and metrics. `loss` is L, or 0
      without a pair. NAME/pairs is the number of pairs, where NAME is the algorithm's name. If
      there are pairs, NAME/accuracy is the fraction with a margin above 0, and NAME/margin is the
      mean margin.

    Raises:
      ValueError: The algorithm has no pair_loss.
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
