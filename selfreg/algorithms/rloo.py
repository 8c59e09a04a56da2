"""RLOO: each completion's baseline is the mean reward of the other completions in its group."""

from selfreg.algorithms.parts.policy_gradient import policy_gradient
from selfreg.algorithms.parts.settings import Settings

ALGORITHM = policy_gradient(
    "Ahmadian et al. 2024, arXiv:2402.14740, section 3.2",
    Settings(use_score_centering=True, use_leave_one_out=True),
)
