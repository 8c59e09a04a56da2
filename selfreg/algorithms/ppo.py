"""PPO's clipped ratio with GRPO's advantages, without a value model."""

from selfreg.algorithms.parts.policy_gradient import policy_gradient
from selfreg.algorithms.parts.settings import Settings

ALGORITHM = policy_gradient(
    "Schulman et al. 2017, arXiv:1707.06347, eq. 7",
    Settings(
        use_score_centering=True,
        use_std_normalization=True,
        use_importance_sampling_ratio=True,
        clip_low=0.2,
        clip_high=0.2,
    ),
)
