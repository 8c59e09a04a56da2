"""From graded groups to one batch."""

from collections.abc import Sequence

import numpy as np

from selfreg.learn.advantages import advantages, token_weights
from selfreg.learn.packing import Packing, pack, slots_shape
from selfreg.records import Batch, Group


def collate(
    groups: Sequence[Group],
    *,
    prompt_width: int,
    max_new_tokens: int,
    packing: Packing,
    reward_coding: str,
    center: bool,
    normalize: bool,
    aggregation: str,
    leave_one_out: bool = False,
) -> Batch:
    """Lay groups out in arrays and give every token its advantage, its weight and its slot.

    All shapes are those of the run's worst case, so that one program serves every step. The lines
    of unjudged completions come last in their group and are empty: no token, no advantage.

    Args:
      groups: P groups of G completions, unjudged ones included.
      prompt_width: The padded length of prompts. A prompt is run once for all its completions, so
        that its padding costs little.
      max_new_tokens: The most tokens a completion may have.
      packing: The rows that the update is compiled for.
      reward_coding: See advantages.
      center: See advantages.
      normalize: See advantages.
      aggregation: See token_weights.
      leave_one_out: See advantages.

    Returns:
      The batch; B = P * G.
    """
    rows = [row for group in groups for row in _rows(group)]
    lengths = np.array([len(ids) for ids, _ in rows])
    mask = (np.arange(max_new_tokens) < lengths[:, None]).astype(np.float32)
    prompts = [_prompt(group) for group in groups]
    judged = sum(len(group.rollouts) for group in groups)
    return Batch(
        prompt_ids=_padded(prompts, prompt_width, np.int32),
        prompt_lengths=np.array([len(prompt) for prompt in prompts], np.int32),
        completion_ids=_padded([ids for ids, _ in rows], max_new_tokens, np.int32),
        completion_mask=mask,
        logprobs=_padded([logprobs for _, logprobs in rows], max_new_tokens, np.float32),
        advantages=np.concatenate(
            [
                padded(
                    advantages(
                        g.rewards,
                        reward_coding=reward_coding,
                        center=center,
                        normalize=normalize,
                        leave_one_out=leave_one_out,
                    ),
                    g.size,
                    0.0,
                )
                for g in groups
            ]
        ),
        token_weights=token_weights(mask, aggregation, max_new_tokens, judged),
        slots=pack(lengths.reshape(len(groups), -1), max_new_tokens, packing),
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
