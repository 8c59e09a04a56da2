"""GRPO: rewards are centered by their group and divided by its spread.

One update a draw needs no ratio. With several, or with a sampler that computes otherwise, set
learn.use_importance_sampling_ratio.
"""

from selfreg.algorithms.parts.policy_gradient import policy_gradient
from selfreg.algorithms.parts.settings import Settings

ALGORITHM = policy_gradient(
    "Shao et al. 2024, arXiv:2402.03300, eq. 3",
    Settings(use_score_centering=True, use_std_normalization=True),
)
