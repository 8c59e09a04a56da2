"""Dr. GRPO: GRPO without the division by the group's standard deviation.

That division gives extra weight to problems that are very easy or very hard.
"""

from selfreg.algorithms.parts.policy_gradient import policy_gradient
from selfreg.algorithms.parts.settings import Settings

ALGORITHM = policy_gradient(
    "Liu et al. 2025, arXiv:2503.20783, section 3.2", Settings(use_score_centering=True)
)
