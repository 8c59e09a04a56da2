"""The unbiased estimator of pass@k."""

import numpy as np


def pass_at_k(samples: np.ndarray, passed: np.ndarray, k: int) -> np.ndarray:
    """The chance that at least one of k completions passes, for each problem.

    pass@k = 1 - C(n - c, k) / C(n, k), Chen et al. 2021 (arXiv:2107.03374), eq. 1.

    Args:
      samples: int [N], n, completions drawn of each problem; at least k.
      passed: int [N], c, those that passed.
      k: How many tries.

    Returns:
      float64 [N].

    Raises:
      ValueError: A problem has fewer than k completions.
    """
    n, c = np.asarray(samples, int), np.asarray(passed, int)
    if np.any(n < k):
        raise ValueError(f"pass@{k} needs at least {k} completions, and one problem has {n.min()}")
    # The ratio of the two binomials as a product, which neither overflows nor rounds 0 away.
    misses = [np.prod(1 - k / np.arange(m - p + 1, m + 1)) for m, p in zip(n, c, strict=True)]
    return 1 - np.array(misses, float)
