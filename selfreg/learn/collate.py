"""From graded groups to one batch."""

from collections.abc import Sequence

import numpy as np

from selfreg.algorithms.parts.advantages import coded, token_weights
from selfreg.algorithms.parts.algorithm import Algorithm
from selfreg.learn.packing import Packing, pack, slots_shape
from selfreg.records import Batch, Group


def collate(
    groups: Sequence[Group],
    *,
    algorithm: Algorithm,
    reward_coding: str,
    prompt_width: int,
    max_new_tokens: int,
    packing: Packing,
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
      learned: bool [B], which completions the update learns from; the others' tokens weigh nothing
        and are not counted where weights are divided by counts. None: from all.

    Returns:
      The batch; B = P * G.
    """
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    lengths = np.array([len(rollout.completion_ids) for rollout in rollouts])
    mask = (np.arange(max_new_tokens) < lengths[:, None]).astype(np.float32)
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
                algorithm.advantages(settings, coded(group.rewards, reward_coding))
                for group in groups
            ]
        ),
        token_weights=token_weights(mask, settings.token_aggregation, max_new_tokens, learned),
        slots=pack(lengths.reshape(len(groups), -1), max_new_tokens, packing),
    )


def learned_from(groups: Sequence[Group], *, drop_without_signal: bool) -> np.ndarray | None:
    """Which completions an update learns from: bool [B]; None: from all.

    Args:
      groups: P groups of G completions.
      drop_without_signal: Leave out groups whose rewards are all alike (the filter of DAPO,
        arXiv:2503.14476, eq. 11).
    """
    if not drop_without_signal:
        return None
    return np.concatenate([np.full(len(g.rollouts), g.has_signal) for g in groups])


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
