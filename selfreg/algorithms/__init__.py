"""The algorithms: what each name sets of the section `learn` where a config leaves it open.

reinforce  Williams 1992
rloo       Ahmadian et al. 2024, arXiv:2402.14740
grpo       Shao et al. 2024, arXiv:2402.03300
dr_grpo    Liu et al. 2025, arXiv:2503.20783
ppo        Schulman et al. 2017, arXiv:1707.06347, with GRPO's advantages
gspo       Zheng et al. 2025, arXiv:2507.18071
dpo        Rafailov et al. 2023, arXiv:2305.18290, on graded pairs
"""

from typing import Any

# A config decides each of these itself where it sets it: see selfreg/config.py for what they mean.
REINFORCE: dict[str, Any] = {
    "use_score_centering": False,
    "use_leave_one_out": False,
    "use_std_normalization": False,
    "use_importance_sampling_ratio": False,
    "ratio_level": "token",
    "clip_low": 0.0,
    "clip_high": 0.0,
    "token_aggregation": "token_mean",
}
_GRPO = REINFORCE | {"use_score_centering": True, "use_std_normalization": True}
_RATIO = {"use_importance_sampling_ratio": True}
# What an algorithm's name says of the keys of `learn` that a config leaves open.
ALGORITHMS: dict[str, dict[str, Any]] = {
    "reinforce": REINFORCE,
    "rloo": REINFORCE | {"use_score_centering": True, "use_leave_one_out": True},
    "grpo": _GRPO,
    "dr_grpo": REINFORCE | {"use_score_centering": True},
    "ppo": _GRPO | _RATIO | {"clip_low": 0.2, "clip_high": 0.2},
    # The clip range of the paper, section 5.1: a mean over tokens moves little.
    "gspo": _GRPO
    | _RATIO
    | {
        "ratio_level": "sequence",
        "clip_low": 3e-4,
        "clip_high": 4e-4,
        "token_aggregation": "sequence_mean",
    },
    "dpo": REINFORCE | {"token_aggregation": "sum"},
}
