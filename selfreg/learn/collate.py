"""From graded groups to one padded batch."""

from collections.abc import Sequence

import numpy as np

from selfreg.learn.advantages import advantages, token_weights
from selfreg.records import Batch, Group


def collate(
    groups: Sequence[Group],
    *,
    rows_per_prompt: int,
    prompt_width: int,
    completion_lengths: Sequence[int],
    reward_coding: str,
    center: bool,
    normalize: bool,
    aggregation: str,
) -> Batch:
    """Pad groups into arrays and give every token its advantage and weight.

    Args:
      groups: P groups of G completions.
      rows_per_prompt: Rows that share one copy of their prompt; divides G. Below G, a prompt is
        repeated, so that a microbatch may be smaller than a group.
      prompt_width: The padded length of prompts. One for the whole run: a prompt is run once for
        all the rows that share it, so that its padding costs little.
      completion_lengths: The padded lengths that have a compiled program, ascending; the first that
        holds every completion is taken. The last is the most tokens a completion may have.
      reward_coding: See advantages.
      center: See advantages.
      normalize: See advantages.
      aggregation: See token_weights.

    Returns:
      The batch; B = P * G.
    """
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    longest = max(len(rollout.completion_ids) for rollout in rollouts)
    width = next(length for length in completion_lengths if length >= longest)
    lengths = np.array([len(rollout.completion_ids) for rollout in rollouts])
    mask = (np.arange(width) < lengths[:, None]).astype(np.float32)
    prompts = [rollout.prompt_ids for rollout in rollouts[::rows_per_prompt]]
    return Batch(
        prompt_ids=_padded(prompts, prompt_width, np.int32),
        prompt_lengths=np.array([len(prompt) for prompt in prompts], np.int32),
        completion_ids=_padded([r.completion_ids for r in rollouts], width, np.int32),
        completion_mask=mask,
        logprobs=_padded([r.logprobs for r in rollouts], width, np.float32),
        advantages=np.concatenate(
            [
                advantages(
                    g.rewards, reward_coding=reward_coding, center=center, normalize=normalize
                )
                for g in groups
            ]
        ),
        token_weights=token_weights(mask, aggregation, completion_lengths[-1]),
    )


def _padded(rows: Sequence[np.ndarray], width: int, dtype: type) -> np.ndarray:
    out: np.ndarray = np.zeros((len(rows), width), dtype)
    for target, row in zip(out, rows, strict=True):
        target[: len(row)] = row
    return out
