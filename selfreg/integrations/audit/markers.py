"""Separate runs that share a table: find the column that tells apart rows of the same step."""

from collections.abc import Sequence

import numpy as np

from selfreg.integrations.audit.table import Table

# Columns that distinguish runs, or training from evaluation, if a step has several rows.
_MARKERS = (
    "run", "run_id", "run_name", "name", "experiment", "exp", "exp_name", "trial", "seed", "split",
    "mode", "phase", "stage", "type", "kind", "set", "dataset", "eval", "is_eval", "env", "model",
)  # fmt: skip
_MOST_RUNS = 200


def find_marker(
    table: Table, reward: str, clock: str | None, steps: np.ndarray
) -> tuple[str, list[tuple[str, np.ndarray]]] | None:
    """Find a column within whose values no step repeats, such as run, seed or split.

    If no column does, rows that log an evaluation are separated from the others.

    Args:
      table: All rows.
      reward: The metric.
      clock: The column that holds the step.
      steps: float64 [n], step of each row that holds the metric.

    Returns:
      The column, and for each of its values a name and a bool [rows] mask; None if nothing
      separates the rows.
    """
    chosen = table.numbers[reward].at
    if len(np.unique(steps)) == len(steps):
        return None
    known = [name for name in _MARKERS if name in table.texts or name in table.numbers]
    texts = [name for name in table.texts if name not in known and len(table.texts[name].names) > 1]
    for name in (*known, *texts):
        codes, labels = _codes(table, name)
        own = codes[chosen]
        if not 1 < len(np.unique(own)) <= _MOST_RUNS or name == clock:
            continue
        if name not in known and len(np.unique(own)) > 20:
            continue
        pairs = np.unique(np.stack([own, steps]), axis=1)
        ordered = all(_restarts_alone(steps[own == code]) for code in np.unique(own))
        if pairs.shape[1] == len(steps) or (name in known and ordered):
            return name, [(_label(name, labels[int(c)]), codes == c) for c in np.unique(own)]
    evaluated = np.zeros(table.rows, bool)
    for name, column in table.numbers.items():
        if name.lower().startswith(("eval", "val", "test")) and len(column.at) < len(chosen):
            evaluated[column.at] = True
    pairs = np.unique(np.stack([evaluated[chosen], steps]), axis=1)
    if evaluated[chosen].any() and pairs.shape[1] == len(steps):
        return "rows that log an evaluation", [("", ~evaluated), ("evaluation", evaluated)]
    return None


def _restarts_alone(steps: np.ndarray) -> bool:
    return len(steps) < 2 or (np.diff(steps) <= 0).sum() <= len(steps) / 10


def _codes(table: Table, name: str) -> tuple[np.ndarray, Sequence[str]]:
    codes = np.full(table.rows, -1, np.int64)
    if name in table.texts:
        labels = table.texts[name]
        codes[labels.at] = labels.codes
        return codes, [*labels.names, "none"]
    column = table.numbers[name]
    values, own = np.unique(column.values, return_inverse=True)
    codes[column.at] = own
    return codes, [*(f"{value:g}" for value in values), "none"]


def _label(name: str, value: str) -> str:
    return (
        value if name in ("run", "run_id", "run_name", "name", "experiment") else f"{name}={value}"
    )
