"""Turn a table into runs: choose metric and steps, separate the runs, and account for every row.

If the step starts over, a new run begins, unless the epoch continues: then the steps are counted
on. If the step goes back to the middle, the run was restarted, and the new rows replace the old
ones. A note reports either case.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from selfreg.integrations.audit import names
from selfreg.integrations.audit.console import BAR
from selfreg.integrations.audit.counts import EPISODES
from selfreg.integrations.audit.events import FORM as EVENTS
from selfreg.integrations.audit.markers import find_marker
from selfreg.integrations.audit.series import failed_from
from selfreg.integrations.audit.table import Table, take

FILE = "number of the file"
_ANEW = "the epoch goes on where the step starts over, so steps are counted on"


@dataclass(frozen=True, slots=True)
class Indicator:
    """A leading indicator of a run: the trainer's column, its steps and its values."""

    column: str
    steps: np.ndarray
    values: np.ndarray


@dataclass(frozen=True, slots=True)
class Log:
    """One metric of one run over its steps, with the leading indicators logged beside it.

    Attributes:
      file: The file or folder it was read from.
      name: Name of the run; empty if the file holds only one.
      format: Format that the file was read as.
      column: The metric.
      clock: Source of the steps: a column, or how they were counted.
      steps: [n], strictly increasing.
      values: float64 [n], as logged, including NaN and infinities.
      indicators: Leading indicators, by our names.
      parts: Columns of rewards whose sum the metric may be.
      facts: Settings that the log states.
      rows: Number of rows of this run that were read.
      dropped: Number of rows that were dropped, by reason.
      repeated: Number of rows whose step occurs again in the log.
      failure: How the run broke down, such as "loss is nan from step 12 to the end"; empty if it
        did not.
      notes: Decisions made while reading, one clause each.
    """

    file: Path
    name: str
    format: str
    column: str
    clock: str
    steps: np.ndarray
    values: np.ndarray
    indicators: Mapping[str, Indicator]
    parts: tuple[str, ...] = ()
    facts: Mapping[str, float] | None = None
    rows: int = 0
    dropped: Mapping[str, int] | None = None
    repeated: int = 0
    failure: str = ""
    notes: tuple[str, ...] = ()


def logs_of(
    file: Path, table: Table, column: str | None = None, step_column: str | None = None
) -> list[Log]:
    """Split a table into runs that have the metric.

    Args:
      file: The file or folder it was read from.
      table: The table.
      column: The metric, or "run - metric" for one run of a W&B export; None for the mean reward.
      step_column: The column that holds the step; None for the trainer's own.

    Raises:
      ValueError: The table lacks the metric or the step; the message lists similar columns.
    """
    found = []
    exported = _exported(table)
    plain = column is not None and column in table.numbers and " - " not in column
    for run in [table] if plain else exported or [table]:
        reward = _reward(run, column)
        if reward is not None:
            found += _runs(file, run, reward, step_column)
    if not found:
        raise ValueError(missing(file, [table], column))
    return found


def missing(file: Path, tables: Sequence[Table], column: str | None) -> str:
    """Return the error message for a metric that none of a file's tables has."""
    there = dict.fromkeys(name for table in tables for name in table.numbers)
    wanted = f"no {column!r}" if column else "no mean reward under a known name"
    near = names.nearest(there, column or "reward")
    shown = ", ".join(near[:8]) + (f" and {len(near) - 8} more" if len(near) > 8 else "")
    forms = ", ".join(dict.fromkeys(table.format for table in tables))
    return (
        f"{file}, read as {forms}, has {wanted}: name one with --column; nearest are {shown}"
        if near
        else f"{file}, read as {forms}, holds no numbers"
    )


def _reward(table: Table, column: str | None) -> str | None:
    if column is None:
        reward = names.find_reward(list(table.numbers))
        if reward is None and {"Step", "Value"} <= table.numbers.keys():
            return "Value"  # the column of TensorBoard's own exports
        return reward
    if column in table.numbers:
        return column
    own = column.removeprefix(f"{table.name} - ")
    return own if table.name and own in table.numbers else None


def _exported(table: Table) -> list[Table]:
    """Split a W&B CSV export, whose columns are named "run - metric", into one table per run.

    The export's columns for a run's minimum and maximum are left out.
    """
    pairs = [name.rpartition(" - ") for name in table.numbers if " - " in name]
    if not pairs:
        return []
    shared = {name: c for name, c in table.numbers.items() if " - " not in name}
    if names.find_reward(list(shared)) is not None:
        return []  # the names merely contain a dash; the table is not an export
    runs = []
    for run in dict.fromkeys(before for before, _, _ in pairs):
        own = {
            metric: table.numbers[f"{run} - {metric}"]
            for before, _, metric in pairs
            if before == run and not metric.endswith(("__MIN", "__MAX"))
        }
        runs.append(replace(table, format="W&B CSV", numbers={**shared, **own}, texts={}, name=run))
    return runs


def _runs(file: Path, table: Table, reward: str, step_column: str | None) -> list[Log]:
    clock, steps = _clock(table, reward, step_column)
    plain = clock is not None and clock not in names.EPOCHS
    marker = find_marker(table, reward, clock, steps) if plain else None
    if marker is None:
        return _in_order(file, table, reward, step_column)
    found = []
    for label, rows in marker[1]:
        name = f"{table.name} {label}".strip()
        part = take(table, rows, name, [f"runs are told apart by {marker[0]!r}"])
        if reward in part.numbers:
            found += _in_order(file, part, reward, step_column)
    return found


def _clock(table: Table, reward: str, step_column: str | None) -> tuple[str | None, np.ndarray]:
    """Choose the column that counts the steps, and return it with its value (or NaN) in each row.

    Only rows that hold the metric are returned. Without any column, rows are counted from 0.
    """
    if step_column is not None and step_column not in table.numbers:
        near = ", ".join(names.nearest(table.numbers, step_column)[:8])
        raise ValueError(f"the log has no column {step_column!r} for the step; nearest are {near}")
    chosen = table.numbers[reward].at
    wanted = (*names.STEPS, BAR, *names.EPOCHS) if step_column is None else (step_column,)
    best: tuple[str | None, np.ndarray] = (None, np.arange(len(chosen), dtype=np.float64))
    for name in wanted:
        if name not in table.numbers or name == reward:
            continue
        column = table.numbers[name]
        steps = np.full(table.rows, np.nan)
        steps[column.at] = column.values
        steps = steps[chosen]
        there = np.isfinite(steps)
        # A column that is constant, or mostly missing, cannot count steps.
        if step_column is not None or (
            there.sum() > 0.5 * len(steps) and (len(np.unique(steps[there])) > 1 or len(steps) == 1)
        ):
            return name, steps
    return best


def _in_order(file: Path, table: Table, reward: str, step_column: str | None) -> list[Log]:
    column = table.numbers[reward]
    clock, steps = _clock(table, reward, step_column)
    dropped = Counter(table.dropped)
    notes = list(table.notes)
    if len(column.at) < table.rows and table.format != EVENTS:  # a row of events holds one tag
        dropped[f"without {reward}"] += table.rows - len(column.at)
    there = np.isfinite(steps)
    if not there.all():
        dropped[f"without {clock}"] += int((~there).sum())
    at, values, steps = column.at[there], column.values[there], steps[there]
    if not len(at):
        raise ValueError(f"{file}: no row has both {reward!r} and {clock!r}")
    epochs = _epochs(table, at)
    if clock == BAR:
        steps = _unstalled(steps)
    if clock is None:
        dropped_clock, steps = "rows, counted", _counted_by_epoch(steps, epochs)
    elif clock in names.EPOCHS and step_column is None:
        dropped_clock, steps = "rows, counted: the log has only epochs", _rows_of_epochs(steps)
        epochs = None
    else:
        dropped_clock = f"{clock!r}" if clock != BAR else "the progress bar"
    pieces = _pieces(steps, epochs, _files(table, at), notes)
    logs = []
    for i, piece in enumerate(pieces):
        name = table.name
        if len(pieces) > 1:
            name = f"{name} part {i + 1}".strip()
        logs.append(
            _log(file, table, reward, (dropped_clock, clock), piece, at, values, name,
                 dropped if i == 0 else Counter(), [*notes, *piece.notes])
        )  # fmt: skip
    return logs


@dataclass(slots=True)
class _Piece:
    """The rows of one run, as indices into the rows of the metric, with their steps."""

    rows: np.ndarray
    steps: np.ndarray
    repeated: int
    notes: list[str]


def _files(table: Table, at: np.ndarray) -> np.ndarray:
    """Return the number of the file that each row comes from."""
    return table.numbers[FILE].values[at] if FILE in table.numbers else np.zeros(len(at))


def _pieces(
    steps: np.ndarray, epochs: np.ndarray | None, files: np.ndarray, notes: list[str]
) -> list[_Piece]:
    """Split the rows into runs, in the order of the log."""
    index = np.arange(len(steps))
    if len(np.unique(steps)) == len(steps):
        if (np.diff(steps) < 0).any():
            notes.append("rows were not in the order of their steps, and were sorted")
        order = np.argsort(steps, kind="stable")
        return [_Piece(order, steps[order], 0, [])]
    forward = np.diff(steps)
    back = np.flatnonzero((forward < 0) | ((np.diff(files) > 0) & (forward == 0))) + 1
    if len(back) > max(3, len(steps) / 3):  # shuffled, with several rows per step
        order = np.argsort(steps, kind="stable")
        notes.append("rows were not in the order of their steps, and were sorted")
        return [_Piece(order, steps[order], 0, [])]
    segments = np.split(index, back)
    if epochs is not None and _goes_on(steps, epochs, back):
        shift = np.zeros(len(steps))
        for start in back:
            shift[start:] += steps[start - 1] - steps[start] + 1
        notes.append(_ANEW)
        return [_Piece(index, steps + shift, 0, [])]
    pieces: list[_Piece] = []
    for segment in segments:
        own = steps[segment]
        if pieces and own[0] > pieces[-1].steps[0]:
            last = pieces[-1]
            kept = last.steps < own[0]
            gone = int((~kept).sum())
            last.notes.append(
                f"a restart at step {own[0]:g} replaces {gone} row{'s' * (gone != 1)}"
            )
            last.repeated += gone
            last.rows = np.concatenate([last.rows[kept], segment])
            last.steps = np.concatenate([last.steps[kept], own])
        else:
            pieces.append(_Piece(segment, own, 0, []))
    if len(pieces) > 1:
        again = len(pieces) - 1
        notes.append(
            f"the step starts over {again} time{'s' * (again != 1)}, so the file holds "
            f"{len(pieces)} runs"
        )
    return pieces


def _goes_on(steps: np.ndarray, epochs: np.ndarray, back: np.ndarray) -> bool:
    """Return whether the epoch continues wherever the step starts over."""
    return bool(len(back)) and bool((epochs[back] > epochs[back - 1]).all())


def _epochs(table: Table, at: np.ndarray) -> np.ndarray | None:
    name = names.find(table.numbers, names.EPOCHS)
    if name is None:
        return None
    column = table.numbers[name]
    epochs = np.full(table.rows, np.nan)
    epochs[column.at] = column.values
    return epochs[at] if np.isfinite(epochs[at]).all() else None


def _counted_by_epoch(rows: np.ndarray, epochs: np.ndarray | None) -> np.ndarray:
    return rows if epochs is None else _rows_of_epochs(epochs)


def _rows_of_epochs(epochs: np.ndarray) -> np.ndarray:
    """Count rows from 1; after a restart, count on from the row with the restart's epoch."""
    steps = np.arange(1, len(epochs) + 1, dtype=np.float64)
    for start in (np.flatnonzero(np.diff(epochs) < 0) + 1).tolist():
        before = int(np.searchsorted(np.maximum.accumulate(epochs[:start]), epochs[start]))
        steps[start:] = np.arange(len(epochs) - start) + steps[min(before, start - 1)]
    return steps


def _unstalled(bar: np.ndarray) -> np.ndarray:
    """Return a progress bar's counts, extrapolated over rows for which it was not redrawn."""
    forward = np.diff(bar)
    apart = float(np.median(forward[forward > 0])) if (forward > 0).any() else 1.0
    steps = bar.copy()
    for i in range(1, len(bar)):
        if bar[i] >= bar[i - 1]:
            steps[i] = max(bar[i], steps[i - 1] + (apart if bar[i] == bar[i - 1] else 1))
    return steps


def _log(
    file: Path, table: Table, reward: str, clock: tuple[str, str | None], piece: _Piece,
    at: np.ndarray, values: np.ndarray, name: str, dropped: Counter[str], notes: list[str],
) -> Log:  # fmt: skip
    steps, first = np.unique(piece.steps, return_index=True)
    own, repeated = values[piece.rows], piece.repeated
    if len(steps) < len(piece.steps):
        gone = len(piece.steps) - len(steps)
        repeated += gone
        groups = np.searchsorted(steps, piece.steps)
        own = np.bincount(groups, own) / np.bincount(groups)
        notes.append(f"{gone} rows repeat a step, and are averaged with the other rows of the step")
    else:
        own = own[first]
    if (steps == np.round(steps)).all():
        steps = steps.astype(np.int64)
    beside = _Beside(table, at[piece.rows], piece.steps, clock[1])
    indicators = {}
    for title, theirs in names.INDICATORS.items():
        found = names.find(table.numbers, theirs)
        if found is not None and found != reward:
            indicators[title] = beside.indicator(found)
    broken = _failure(reward, steps, own)
    loss = names.find(table.numbers, names.LOSSES)
    if not broken and loss is not None:
        one = beside.indicator(loss)
        broken = _failure(loss, one.steps, one.values)
    facts = dict(table.facts)
    for title in EPISODES:
        if title in table.numbers and len(np.unique(table.numbers[title].values)) == 1:
            facts[title] = float(table.numbers[title].values[0])
    return Log(
        file, name, table.format, reward, clock[0], steps, own,
        {title: one for title, one in indicators.items() if len(one.steps)},
        tuple(names.parts_of(reward, table.numbers)), facts, len(piece.rows) + piece.repeated,
        dict(dropped), repeated, broken, tuple(dict.fromkeys(notes)),
    )  # fmt: skip


class _Beside:
    """Aligns other columns of the table with the rows of a run."""

    def __init__(
        self, table: Table, rows: np.ndarray, steps: np.ndarray, clock: str | None
    ) -> None:
        order = np.argsort(rows, kind="stable")
        self._table, self._rows, self._steps = table, rows[order], steps[order]
        self._clock = np.full(table.rows, np.nan)
        if clock is not None and clock not in names.EPOCHS:
            self._clock[table.numbers[clock].at] = table.numbers[clock].values

    def indicator(self, name: str) -> Indicator:
        """Return a column at the steps of its rows, or else at those of the metric's next rows."""
        column, rows = self._table.numbers[name], self._rows
        within = (column.at >= rows[0] - 1) & (column.at <= rows[-1] + 1)
        at, values = column.at[within], column.values[within]
        place = np.clip(np.searchsorted(rows, at), 0, len(rows) - 1)
        apart = self._clock[at] - self._clock[rows[place]]
        steps = self._steps[place] + np.nan_to_num(apart)
        kept = (steps >= self._steps.min()) & (steps <= self._steps.max())
        # If a restart repeated a step, the later value counts.
        own, index = np.unique(steps[kept][::-1], return_index=True)
        return Indicator(name, own, values[kept][::-1][index])


def _failure(name: str, steps: np.ndarray, values: np.ndarray) -> str:
    start = failed_from(values)
    if start is None:
        return ""
    return f"{name} is {values[-1]:g} from step {steps[start]:g} to the end"
