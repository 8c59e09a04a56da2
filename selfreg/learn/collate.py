"""From graded groups to one batch."""

from collections.abc import Sequence

import numpy as np

from selfreg.algorithms.parts.advantages import coded, token_weights
from selfreg.algorithms.parts.algorithm import Algorithm
from selfreg.learn.packing import Packing, pack, slots_shape
from selfreg.records import Batch, FinishReason, Group


def collate(
    groups: Sequence[Group],
    *,
    algorithm: Algorithm,
    reward_coding: str,
    prompt_width: int,
    max_new_tokens: int,
    packing: Packing,
    overlong_tokens: int = 0,
    learned: np.ndarray | None = None,
) -> Batch:
    """Lay groups out in arrays and give every token its advantage, its weight and its slot.

    All shapes are those of the run's worst case, so that one program serves every step.

    Args:
      groups: P groups of G completions.
      algorithm: Configured: gives advantages, and says how tokens are weighed.
      reward_coding: As config.learn.reward_coding.
      prompt_width: The padded length of prompts. A prompt is run once for all its completions, so
        that its padding costs little.
      max_new_tokens: The most tokens a completion may have.
      packing: The rows that the update is compiled for.
      overlong_tokens: See overlong_penalty.
      learned: bool [B], which completions the update learns from; the others' tokens weigh nothing
        and are not counted where weights are divided by counts. None: from all.

    Returns:
      The batch; B = P * G.
    """
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    lengths = np.array([len(rollout.completion_ids) for rollout in rollouts])
    mask = (np.arange(max_new_tokens) < lengths[:, None]).astype(np.float32)
    penalties = overlong_penalty(lengths, max_new_tokens, overlong_tokens).reshape(len(groups), -1)
    prompts = [group.rollouts[0].prompt_ids for group in groups]
    settings = algorithm.settings
    return Batch(
        prompt_ids=_padded(prompts, prompt_width, np.int32),
        prompt_lengths=np.array([len(prompt) for prompt in prompts], np.int32),
        completion_ids=_padded([r.completion_ids for r in rollouts], max_new_tokens, np.int32),
        completion_mask=mask,
        logprobs=_padded([r.logprobs for r in rollouts], max_new_tokens, np.float32),
        advantages=np.concatenate(
            [
                algorithm.advantages(settings, coded(group.rewards, reward_coding) + penalty)
                for group, penalty in zip(groups, penalties, strict=True)
            ]
        ),
        token_weights=token_weights(mask, settings.token_aggregation, max_new_tokens, learned),
        slots=pack(lengths.reshape(len(groups), -1), max_new_tokens, packing),
    )


def overlong_penalty(lengths: np.ndarray, max_new_tokens: int, overlong_tokens: int) -> np.ndarray:
    """What is added to the reward of a long completion: DAPO's soft overlong punishment.

    0 up to max_new_tokens - overlong_tokens tokens, from there down in a line to -1 at
    max_new_tokens (Yu et al. 2025, arXiv:2503.14476, eq. 13).

    Args:
      lengths: int [B], tokens of each completion.
      max_new_tokens: The most that there may be.
      overlong_tokens: Over how many the penalty grows; 0: there is none.

    Returns:
      float32 [B], from -1 to 0.
    """
    if not overlong_tokens:
        return np.zeros(len(lengths), np.float32)
    beyond = lengths - (max_new_tokens - overlong_tokens)
    return (-np.clip(beyond / overlong_tokens, 0, 1)).astype(np.float32)


def learned_from(
    groups: Sequence[Group], *, drop_without_signal: bool = False, mask_truncated: bool = False
) -> np.ndarray | None:
    """Which completions an update learns from: bool [B]; None: from all.

    Args:
      groups: P groups of G completions.
      drop_without_signal: Leave out groups whose rewards are all alike (the filter of DAPO,
        arXiv:2503.14476, eq. 11).
      mask_truncated: Leave out completions that were cut off (its overlong filtering, section 3.4):
        they still are in their group's mean.
    """
    if not (drop_without_signal or mask_truncated):
        return None
    return np.array(
        [
            (group.has_signal or not drop_without_signal)
            and (rollout.finish_reason is not FinishReason.LENGTH or not mask_truncated)
            for group in groups
            for rollout in group.rollouts
        ]
    )


def empty_batch(
    problems: int, group: int, prompt_width: int, max_new_tokens: int, packing: Packing
) -> Batch:
    """A batch of zeros in the shapes and types of `collate`, which takes no memory: to lower by."""

    def zeros(dtype: type, *shape: int) -> np.ndarray:
        return np.broadcast_to(dtype(0), shape)

    count = problems * group
    return Batch(
        prompt_ids=zeros(np.int32, problems, prompt_width),
        prompt_lengths=zeros(np.int32, problems),
        completion_ids=zeros(np.int32, count, max_new_tokens),
        completion_mask=zeros(np.float32, count, max_new_tokens),
        logprobs=zeros(np.float32, count, max_new_tokens),
        advantages=zeros(np.float32, count),
        token_weights=zeros(np.float32, count, max_new_tokens),
        slots=zeros(np.int32, *slots_shape(count, packing)),
    )


def _padded(rows: Sequence[np.ndarray], width: int, dtype: type) -> np.ndarray:
    out: np.ndarray = np.zeros((len(rows), width), dtype)
    for target, row in zip(out, rows, strict=True):
        target[: len(row)] = row
    return out
