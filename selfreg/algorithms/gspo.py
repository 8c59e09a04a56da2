"""GSPO: one clipped ratio per completion, the geometric mean of its tokens' ratios."""

from selfreg.algorithms.parts.policy_gradient import policy_gradient
from selfreg.algorithms.parts.settings import Settings

ALGORITHM = policy_gradient(
    "Zheng et al. 2025, arXiv:2507.18071, eq. 5 and 7",
    Settings(
        use_score_centering=True,
        use_std_normalization=True,
        use_importance_sampling_ratio=True,
        ratio_level="sequence",
        # The paper's values (section 5.1). They are small because a mean over tokens moves little.
        clip_low=3e-4,
        clip_high=4e-4,
        token_aggregation="sequence_mean",
    ),
)
