"""Advantages from rewards, and weights of tokens. Pure NumPy."""

import numpy as np

from selfreg.algorithms.parts.settings import Settings

STD_FLOOR = 1e-6  # the value in verl; a group of equal rewards has advantage 0 with any floor


def coded(rewards: np.ndarray, reward_coding: str) -> np.ndarray:
    """Code rewards of 0 and 1 as config.learn.reward_coding says: {0, 1} or {-1, +1}."""
    return rewards if reward_coding == "zero_one" else 2 * rewards - 1


def group_advantages(settings: Settings, rewards: np.ndarray) -> np.ndarray:
    """Return the advantage of each completion of one group.

    - REINFORCE (Williams 1992) uses the reward: A = R.
    - GRPO (Shao et al. 2024, arXiv:2402.03300, eq. 3) subtracts the group's mean and divides by its
      standard deviation: A = (R - mean(R)) / std(R).
    - Dr. GRPO (Liu et al. 2025, arXiv:2503.20783) only subtracts the mean.
    - RLOO (Kool et al. 2019; Ahmadian et al. 2024, arXiv:2402.14740, section 3.2) subtracts the
      mean reward of the others: A_i = R_i - sum_{j != i} R_j / (G - 1). This baseline does not
      depend on R_i, so the gradient stays unbiased.

    Finally, negative advantages are multiplied by negative_weight. Below 1, the update learns more
    from completions that passed than from those that failed (cf. Le Roux et al. 2025,
    arXiv:2503.14286, section 4).

    Args:
      settings: The function reads use_score_centering, use_leave_one_out, use_std_normalization
        and negative_weight.
      rewards: float32 [G], coded. Unjudged completions have no entry.

    Returns:
      float32 [G].
    """
    if len(rewards) < 1 + settings.use_leave_one_out:  # no other completion to compare with
        return np.zeros(len(rewards), np.float32)
    values = rewards - rewards.mean() if settings.use_score_centering else rewards
    if settings.use_leave_one_out:  # equals R_i - (sum - R_i) / (G - 1)
        values = values * len(rewards) / (len(rewards) - 1)
    if settings.use_std_normalization:  # the population standard deviation, not the sample's
        values = values / (rewards.std() + STD_FLOOR)
    if settings.negative_weight != 1:
        values = np.where(values < 0, settings.negative_weight * values, values)
    return values.astype(np.float32)


def token_weights(
    mask: np.ndarray, aggregation: str, max_new_tokens: int, learned: np.ndarray | None = None
) -> np.ndarray:
    """Return the weight of each token's loss.

    The choice changes the direction of the gradient, not only its scale.

    - token_mean: 1 / (tokens in the batch). Every token has the same weight, so long completions
      have more (DAPO, Yu et al. 2025, arXiv:2503.14476).
    - sequence_mean: 1 / (B x tokens of the completion). Every completion has the same weight
      (GRPO, eq. 3).
    - constant_length: 1 / (B x max_new_tokens). This removes the bias towards long wrong answers
      (Dr. GRPO).
    - sum: 1. Only the advantage sets a completion's weight (DPO).

    Args:
      mask: float32 [B, T], 1 on completion tokens.
      aggregation: One of the above.
      max_new_tokens: The divisor of constant_length.
      learned: bool [B], the completions that the update learns from. The others have weight 0, and
        B and the token counts above leave them out. None: all completions.

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
