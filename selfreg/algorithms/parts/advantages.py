"""From rewards to advantages. Pure NumPy, one group at a time."""

import numpy as np

from selfreg.algorithms.parts.settings import Settings

STD_FLOOR = 1e-6  # as TRL and verl add it; a group without spread has advantage 0 in any case


def coded(rewards: np.ndarray, reward_coding: str) -> np.ndarray:
    """Rewards of 0 and 1 as config.learn.reward_coding has them: {0, 1} or {-1, +1}."""
    return rewards if reward_coding == "zero_one" else 2 * rewards - 1


def group_advantages(settings: Settings, rewards: np.ndarray) -> np.ndarray:
    """The advantage of each completion of one group.

    REINFORCE (Williams 1992) uses the reward itself: A = R. GRPO (Shao et al. 2024,
    arXiv:2402.03300, eq. 3) centers by the group and divides by its spread:
    A = (R - mean(R)) / std(R). Dr. GRPO (Liu et al. 2025, arXiv:2503.20783) only centers. RLOO
    (Kool et al. 2019; Ahmadian et al. 2024, arXiv:2402.14740, section 3.2) takes the mean of the
    others as each one's baseline, A_i = R_i - sum_{j != i} R_j / (G - 1): unlike the group's own
    mean it does not depend on what it is subtracted from, and leaves the gradient unbiased.
    Last, advantages below 0 are multiplied by negative_weight: below 1 the update learns more from
    what passed than from what failed (cf. Le Roux et al. 2025, arXiv:2503.14286, section 4).

    Args:
      settings: use_score_centering, use_leave_one_out, use_std_normalization and negative_weight
        are read.
      rewards: float32 [G], coded; fewer where completions are unjudged.

    Returns:
      float32 [G].
    """
    if len(rewards) < 1 + settings.use_leave_one_out:  # nothing to compare with
        return np.zeros(len(rewards), np.float32)
    values = rewards - rewards.mean() if settings.use_score_centering else rewards
    if settings.use_leave_one_out:  # R_i - (sum - R_i) / (G - 1)
        values = values * len(rewards) / (len(rewards) - 1)
    if settings.use_std_normalization:  # by the population's standard deviation
        values = values / (rewards.std() + STD_FLOOR)
    if settings.negative_weight != 1:
        values = np.where(values < 0, settings.negative_weight * values, values)
    return values.astype(np.float32)


def token_weights(
    mask: np.ndarray, aggregation: str, max_new_tokens: int, learned: np.ndarray | None = None
) -> np.ndarray:
    """How much each token's loss counts. The choice changes the gradient, not only its scale.

    token_mean: 1 / (tokens in the batch): every token counts alike, long completions more
      (DAPO, Yu et al. 2025, arXiv:2503.14476).
    sequence_mean: 1 / (B x tokens of its completion): every completion counts alike (GRPO, eq. 3).
    constant_length: 1 / (B x max_new_tokens): the sum over a completion, free of the bias towards
      long wrong answers (Dr. GRPO).
    sum: 1: what a whole completion counts is its advantage alone (DPO).

    Args:
      mask: float32 [B, T], 1 on completion tokens.
      aggregation: One of the above.
      max_new_tokens: For constant_length.
      learned: bool [B], the completions that count; the others weigh nothing, and neither they nor
        their tokens are in B or the batch above. None: all.

    Returns:
      float32 [B, T], 0 on padding.
    """
    rows = len(mask)
    if learned is not None:
        mask, rows = mask * learned[:, None], max(int(learned.sum()), 1)
    divisor = {
        "token_mean": np.maximum(mask.sum(), 1),
        "sequence_mean": rows * np.maximum(mask.sum(axis=1, keepdims=True), 1),
        "constant_length": rows * max_new_tokens,
        "sum": 1,
    }[aggregation]
    return (mask / divisor).astype(np.float32)
