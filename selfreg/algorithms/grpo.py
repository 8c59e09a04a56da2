"""GRPO: subtract the group's mean reward and divide by the group's standard deviation.

One update per batch needs no importance ratio. Set learn.use_importance_sampling_ratio for several
updates per batch, or for a sampler whose logprobs differ from the trainer's.
"""

from selfreg.algorithms.parts.policy_gradient import policy_gradient
from selfreg.algorithms.parts.settings import Settings

ALGORITHM = policy_gradient(
    "Shao et al. 2024, arXiv:2402.03300, eq. 3",
    Settings(use_score_centering=True, use_std_normalization=True),
)
