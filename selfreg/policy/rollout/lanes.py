"""Which rows of a decoding batch stand side by side: lanes, whose rows share one prompt's cache.

A batch starts with a lane for each prompt. When it is packed into fewer rows its lanes are narrowed
twice as fast, so that few rows stand there only to fill a lane up. Pure functions on NumPy arrays.
"""

import math

import numpy as np


def width(rows: int, first: int, group: int, parts: int) -> int:
    """Rows of a lane.

    Args:
      rows: Of the batch.
      first: Of the batch before it was packed at all.
      group: Completions of a prompt.
      parts: Into which devices split the rows; no lane may lie in two.
    """
    wanted = group if rows == first else max(1, group * rows // first // 2)
    return math.gcd(wanted, rows // parts)


def pack(
    drawn: np.ndarray, live: np.ndarray, group: int, count: int, width: int
) -> np.ndarray | None:
    """Lanes of those rows that have not ended.

    Args:
      drawn: int [n], the completion that each row of the batch draws; some twice, to fill up.
      live: int, the completions that have not ended.
      group: Completions of a prompt: `drawn // group` is a row's prompt.
      count: Lanes wanted.
      width: Rows of each.

    Returns:
      int [count * width], below n: whole lanes, each filled up by repeats of its own, which draw
      the same tokens again. None: they do not fit.
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
    nothing = np.zeros(width, int)  # where all have ended
    lanes += [lanes[0] if lanes else nothing] * (count - len(lanes))
    return np.concatenate(lanes)
