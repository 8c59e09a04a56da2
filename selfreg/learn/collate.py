"""From graded groups to one batch."""

from collections.abc import Sequence

import numpy as np

from selfreg.algorithms.parts.advantages import advantages, token_weights
from selfreg.learn.packing import Packing, pack
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

    All shapes are those of the run's worst case, so that one program serves every step.

    Args:
      groups: P groups of G completions.
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
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    lengths = np.array([len(rollout.completion_ids) for rollout in rollouts])
    mask = (np.arange(max_new_tokens) < lengths[:, None]).astype(np.float32)
    prompts = [group.rollouts[0].prompt_ids for group in groups]
    return Batch(
        prompt_ids=_padded(prompts, prompt_width, np.int32),
        prompt_lengths=np.array([len(prompt) for prompt in prompts], np.int32),
        completion_ids=_padded([r.completion_ids for r in rollouts], max_new_tokens, np.int32),
        completion_mask=mask,
        logprobs=_padded([r.logprobs for r in rollouts], max_new_tokens, np.float32),
        advantages=np.concatenate(
            [
                advantages(
                    g.rewards,
                    reward_coding=reward_coding,
                    center=center,
                    normalize=normalize,
                    leave_one_out=leave_one_out,
                )
                for g in groups
            ]
        ),
        token_weights=token_weights(mask, aggregation, max_new_tokens),
        slots=pack(lengths.reshape(len(groups), -1), max_new_tokens, packing),
    )


def _padded(rows: Sequence[np.ndarray], width: int, dtype: type) -> np.ndarray:
    out: np.ndarray = np.zeros((len(rows), width), dtype)
    for target, row in zip(out, rows, strict=True):
        target[: len(row)] = row
    return out
