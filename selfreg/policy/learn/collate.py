"""From graded groups to one batch."""

from collections.abc import Sequence

import numpy as np

from selfreg.algorithms.parts.advantages import coded, token_weights
from selfreg.algorithms.parts.algorithm import Algorithm
from selfreg.algorithms.parts.batch import Batch
from selfreg.policy.learn.packing import Packing, pack, slots_shape
from selfreg.run.records import FinishReason, Group


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

    All shapes are those of the run's worst case, so that one program serves every step. The lines
    of unjudged completions come last in their group and are empty: no token, no advantage.

    Args:
      groups: P groups of G completions, unjudged ones included.
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
    rows = [row for group in groups for row in _rows(group)]
    lengths = np.array([len(ids) for ids, _ in rows])
    mask = (np.arange(max_new_tokens) < lengths[:, None]).astype(np.float32)
    penalties = overlong_penalty(lengths, max_new_tokens, overlong_tokens).reshape(len(groups), -1)
    prompts = [_prompt(group) for group in groups]
    settings = algorithm.settings

    def advantages(group: Group, penalty: np.ndarray) -> np.ndarray:
        if not group.rollouts:
            return np.zeros(group.size, np.float32)
        rewards = coded(group.rewards, reward_coding) + penalty[: len(group.rollouts)]
        return padded(algorithm.advantages(settings, rewards), group.size, 0.0)

    return Batch(
        prompt_ids=_padded(prompts, prompt_width, np.int32),
        prompt_lengths=np.array([len(prompt) for prompt in prompts], np.int32),
        completion_ids=_padded([ids for ids, _ in rows], max_new_tokens, np.int32),
        completion_mask=mask,
        logprobs=_padded([logprobs for _, logprobs in rows], max_new_tokens, np.float32),
        advantages=np.concatenate(
            [advantages(group, penalty) for group, penalty in zip(groups, penalties, strict=True)]
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
    """Which completions an update learns from: bool [B], never unjudged ones; None: from all.

    Args:
      groups: P groups of G completions.
      drop_without_signal: Leave out groups whose rewards are all alike (the filter of DAPO,
        arXiv:2503.14476, eq. 11).
      mask_truncated: Leave out completions that were cut off (its overlong filtering, section 3.4):
        they still are in their group's mean.
    """
    unjudged = any(group.unjudged for group in groups)
    if not (drop_without_signal or mask_truncated or unjudged):
        return None

    def of_group(group: Group) -> np.ndarray:
        learned = [
            (group.has_signal or not drop_without_signal)
            and (rollout.finish_reason is not FinishReason.LENGTH or not mask_truncated)
            for rollout in group.rollouts
        ]
        return padded(np.array(learned, bool), group.size, False)

    return np.concatenate([of_group(group) for group in groups])


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


def padded(values: np.ndarray, size: int, fill: float) -> np.ndarray:
    """A group's numbers with `fill` for its unjudged completions.

    Args:
      values: [completions with a verdict].
      size: G.
      fill: What stands for no number.

    Returns:
      [G], of the same dtype.
    """
    return np.append(values, np.full(size - len(values), fill, values.dtype))


def _rows(group: Group) -> list[tuple[np.ndarray, np.ndarray]]:
    """Token ids and logprobs of a group's completions, in the order of `padded`."""
    nothing: tuple[np.ndarray, np.ndarray] = (np.zeros(0, np.int32), np.zeros(0, np.float32))
    judged = [(rollout.completion_ids, rollout.logprobs) for rollout in group.rollouts]
    return judged + [nothing] * len(group.unjudged)


def _prompt(group: Group) -> np.ndarray:
    rollouts = (*group.rollouts, *(u.rollout for u in group.unjudged))
    return rollouts[0].prompt_ids


def _padded(rows: Sequence[np.ndarray], width: int, dtype: type) -> np.ndarray:
    out: np.ndarray = np.zeros((len(rows), width), dtype)
    for target, row in zip(out, rows, strict=True):
        target[: len(row)] = row
    return out
