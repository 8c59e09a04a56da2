"""Convert series of numbers from lists, arrays, pandas or polars."""

from typing import Any

import numpy as np


def numbers(values: Any, name: str) -> np.ndarray:
    """Convert values to float64 [n], with NaN for missing ones.

    Args:
      values: A list, an array, a series, or a frame with one column.
      name: Name of the argument, for the error message.

    Raises:
      ValueError: The values are not numbers, or not one-dimensional.
    """
    if hasattr(values, "columns"):
        columns = list(values.columns)
        if len(columns) != 1:
            raise ValueError(
                f"{name} is a frame of {len(columns)} columns, {columns[:8]}: pass one of them"
            )
        values = values[columns[0]]
    if hasattr(values, "to_numpy"):
        values = values.to_numpy()
    elif not isinstance(values, np.ndarray):
        values = list(values) if np.iterable(values) else values
    try:
        array = np.asarray(
            [np.nan if v is None else v for v in values] if isinstance(values, list) else values,
            np.float64,
        )
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be numbers, not {str(values)[:60]}") from None
    if array.ndim != 1:
        raise ValueError(f"{name} needs one value per step, not the shape {array.shape}")
    return array


def failed_from(values: np.ndarray) -> int | None:
    """Return the index from which a series is not finite until its end; None if it did not fail.

    A series that had as long a run of NaN before is not a failure: its metric is NaN wherever it
    was not measured.
    """
    bad = ~np.isfinite(values)
    if not len(bad) or not bad[-1]:
        return None
    edges = np.flatnonzero(np.diff(np.concatenate([[0], bad.astype(np.int8), [0]])))
    lengths = edges[1::2] - edges[::2]
    return int(edges[-2]) if lengths[-1] > max(lengths[:-1], default=0) else None
