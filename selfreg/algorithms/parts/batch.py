"""What one update learns from."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Batch:
    """What one update learns from, a completion a line, and where each token is computed.

    Attributes:
      prompt_ids: int32 [P, width], right-padded; each is kept once for the G that share it.
      prompt_lengths: int32 [P].
      completion_ids: int32 [B, T], right-padded.
      completion_mask: float32 [B, T], 1 on completion tokens. Unjudged completions have none.
      logprobs: float32 [B, T], the sampler's, 0 on padding.
      advantages: float32 [B].
      token_weights: float32 [B, T], how much each token's loss counts; the batch's loss is the sum
        of weight x token loss, so that the losses of microbatches add up to it exactly.
      slots: int32 [widths, R, widest], the tokens side by side in rows: see policy.learn.packing.
    """

    prompt_ids: np.ndarray
    prompt_lengths: np.ndarray
    completion_ids: np.ndarray
    completion_mask: np.ndarray
    logprobs: np.ndarray
    advantages: np.ndarray
    token_weights: np.ndarray
    slots: np.ndarray
