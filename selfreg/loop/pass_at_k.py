"""Estimates pass@k without bias."""

import numpy as np


def pass_at_k(samples: np.ndarray, passed: np.ndarray, k: int) -> np.ndarray:
    """Estimate the chance that at least one of k completions passes, for each problem.

    pass@k = 1 - C(n - c, k) / C(n, k), Chen et al. 2021 (arXiv:2107.03374), eq. 1.

    Args:
      samples: int [N], n: the completions drawn for each problem; at least k.
      passed: int [N], c: those that passed.
      k: The number of tries.

    Returns:
      float64 [N].

    Raises:
      ValueError: A problem has fewer than k completions.
    """
    n, c = np.asarray(samples, int), np.asarray(passed, int)
    if np.any(n < k):
        raise ValueError(f"pass@{k} needs at least {k} completions, and one problem has {n.min()}")
    # As a product, the ratio of the two binomials neither overflows nor loses small values.
    misses = [np.prod(1 - k / np.arange(m - p + 1, m + 1)) for m, p in zip(n, c, strict=True)]
    return 1 - np.array(misses, float)
