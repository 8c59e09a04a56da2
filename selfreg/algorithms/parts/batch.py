"""The batch that one update learns from."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Batch:
    """The B = P x G completions that one update learns from, and where each token is computed.

    Attributes:
      prompt_ids: int32 [P, width], right-padded. The G completions of a prompt share one entry.
      prompt_lengths: int32 [P].
      completion_ids: int32 [B, T], right-padded.
      completion_mask: float32 [B, T], 1 on completion tokens. It is 0 for unjudged completions.
      logprobs: float32 [B, T], the sampler's, 0 on padding.
      advantages: float32 [B].
      token_weights: float32 [B, T], the weight of each token's loss. The batch's loss is the sum of
        weight x token loss, so the losses of microbatches add up to it exactly.
      slots: int32 [widths, R, widest], the place of each token in packed rows. See
        selfreg.policy.learn.packing.
    """

    prompt_ids: np.ndarray
    prompt_lengths: np.ndarray
    completion_ids: np.ndarray
    completion_mask: np.ndarray
    logprobs: np.ndarray
    advantages: np.ndarray
    token_weights: np.ndarray
    slots: np.ndarray
