"""Collate graded groups into one batch."""

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
    """Lay out groups in arrays, and give every token its advantage, its weight and its slot.

    All shapes are the run's worst case, so that one program serves every step. The entries of
    unjudged completions come last in their group. They have no tokens and advantage 0.

    Args:
      groups: P groups of G completions, unjudged ones included.
      algorithm: Computes the advantages. Its settings choose the weights of tokens.
      reward_coding: As config.learn.reward_coding.
      prompt_width: The padded length of prompts. The update runs each prompt once for all its
        completions, so prompt padding costs little.
      max_new_tokens: The maximum number of tokens in a completion.
      packing: The rows that the update is compiled for.
      overlong_tokens: See overlong_penalty.
      learned: bool [B], the completions that the update learns from. The tokens of the others have
        weight 0 and do not count in the divisors of weights. None: all completions.

    Returns:
      The batch, with B = P * G.
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
    """Return DAPO's soft overlong punishment, which is added to each completion's reward.

    It is 0 up to max_new_tokens - overlong_tokens tokens. From there it falls linearly to -1 at
    max_new_tokens (Yu et al. 2025, arXiv:2503.14476, eq. 13).

    Args:
      lengths: int [B], the number of tokens in each completion.
      max_new_tokens: The maximum number of tokens in a completion.
      overlong_tokens: The number of tokens over which the penalty grows. 0: no penalty.

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
    """Return which completions an update learns from. Unjudged completions are never among them.

    Args:
      groups: P groups of G completions.
      drop_without_signal: Leave out groups whose rewards are all equal (the filter of DAPO, Yu et
        al. 2025, arXiv:2503.14476, eq. 11).
      mask_truncated: Leave out truncated completions (DAPO's overlong filtering, section 3.4). They
        still count in their group's mean.

    Returns:
      bool [B], or None if the update learns from all completions.
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
    """Return a batch of zeros with the shapes and dtypes of `collate`, to lower programs from.

    Its arrays are broadcast from single elements, so they take no memory.
    """

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
    """Append `fill` to a group's values for each of its unjudged completions.

    Args:
      values: One value per judged completion.
      size: G.
      fill: The value of unjudged completions.

    Returns:
      [G], of the same dtype.
    """
    return np.append(values, np.full(size - len(values), fill, values.dtype))


def _rows(group: Group) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the token ids and logprobs of a group's completions, in the order of `padded`."""
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
