"""Lanes: adjacent rows of a decoding batch that share one prompt's cache.

A batch starts with one lane per prompt. When the batch is packed into fewer rows, its lanes shrink
twice as fast, so that few rows serve only to fill a lane. Pure functions on NumPy arrays.
"""

import math

import numpy as np


def width(rows: int, first: int, group: int, parts: int) -> int:
    """Return the number of rows in a lane.

    Args:
      rows: The number of rows in the batch.
      first: The number of rows before the batch was first packed.
      group: The number of completions per prompt.
      parts: The number of parts into which devices split the rows. A lane may not span two parts.
    """
    wanted = group if rows == first else max(1, group * rows // first // 2)
    return math.gcd(wanted, rows // parts)


def pack(
    drawn: np.ndarray, live: np.ndarray, group: int, count: int, width: int
) -> np.ndarray | None:
    """Arrange the rows of unfinished completions in lanes.

    Args:
      drawn: int [n], the completion that each row of the batch draws. Filler rows repeat one.
      live: int, the completions that have not ended.
      group: The number of completions per prompt, so `drawn // group` is a row's prompt.
      count: The number of lanes.
      width: The number of rows in each lane.

    Returns:
      int [count * width], indices of rows. Each lane is filled with repeats of its own rows, which
      draw the same tokens again. None: the rows do not fit.
    """
    completions, rows = np.unique(drawn, return_index=True)
    rows = rows[np.isin(completions, live)]
    prompts = drawn[rows] // group
    lanes = [
        np.resize(own[start : start + width], width)
        for own in (rows[prompts == prompt] for prompt in np.unique(prompts))
        for start in range(0, len(own), width)
    ]
    if len(lanes) > count:
        return None
    nothing = np.zeros(width, int)  # a lane to use if all completions have ended
    lanes += [lanes[0] if lanes else nothing] * (count - len(lanes))
    return np.concatenate(lanes)
