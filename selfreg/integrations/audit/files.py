"""Turn paths into runs: choose the reader of a file, and group the files of a folder into runs."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from selfreg.integrations.audit import names
from selfreg.integrations.audit.console import Console
from selfreg.integrations.audit.documents import read_csv, read_json
from selfreg.integrations.audit.events import is_events, read_events
from selfreg.integrations.audit.logs import FILE, Log, logs_of, missing
from selfreg.integrations.audit.parquet import is_parquet, read_parquet
from selfreg.integrations.audit.samples import FORM as SAMPLES_FORM
from selfreg.integrations.audit.samples import by_step, is_dump
from selfreg.integrations.audit.source import is_binary, open_source
from selfreg.integrations.audit.table import Table, join, with_column
from selfreg.integrations.audit.wandb_file import is_wandb, read_wandb

STATE = "trainer_state.json"
_LOGS = (
    ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".log", ".txt", ".out", ".err", ".parquet",
    ".wandb",
)  # fmt: skip
_PACKED = (".gz", ".zst", ".bz2", ".xz")
_NUMBER = re.compile(r"\d+")
# Two logs with this many equal values belong to the same run.
_SHARED = 5
_ZIP = b"PK\x03\x04"


def read_logs(
    path: Path | str,
    column: str | None = None,
    step_column: str | None = None,
    left_out: Callable[[str], None] | None = None,
) -> list[Log]:
    """Read the runs of a file or a folder.

    Args:
      path: A log, or a folder of checkpoints, event files, samples or any other logs.
      column: The metric; None for the trainer's mean reward.
      step_column: The column that holds the step; None for the trainer's own.
      left_out: Receives one line for each file of a folder that holds no run.

    Raises:
      ValueError: The path holds no run; the message is one line.
    """
    path = Path(path)
    if path.is_dir():
        found, errors = [], []
        for item in folder(path):
            try:
                found += _read(item, column, step_column)
            except (ValueError, OSError) as error:
                errors.append(str(error))
            except Exception as error:  # an unforeseen kind of file must not stop the others
                errors.append(f"{item[0]} cannot be read: {type(error).__name__}: {error}")
        if not found:
            raise ValueError(
                f"{path}: none of {len(errors)} files holds a run; the first: {errors[0]}"
                if errors
                else f"{path} holds neither a trainer_state.json, event files nor other logs"
            )
        if left_out is not None:
            for why in errors:
                left_out(why)
        return _without_twins(found)
    return _read([path], column, step_column)


def _without_twins(logs: list[Log]) -> list[Log]:
    """Merge a dump of samples into the log with the same means, which gets the dump's counts."""
    dumps = [log for log in logs if SAMPLES_FORM in log.format]
    others = [log for log in logs if SAMPLES_FORM not in log.format]
    kept = []
    for dump in dumps:
        twins = [i for i, log in enumerate(others) if _same(dump, log)]
        if len(twins) != 1:
            kept.append(dump)
            continue
        log = others[twins[0]]
        others[twins[0]] = replace(
            log,
            facts={**(log.facts or {}), **(dump.facts or {})},
            notes=(*log.notes, f"samples in {dump.file.name} have the same means"),
        )
    return [*others, *kept]


def _same(one: Log, other: Log) -> bool:
    """Return whether two logs hold the same values at shared steps, up to rounding."""
    _, first, second = np.intersect1d(one.steps, other.steps, return_indices=True)
    if len(first) < _SHARED or np.ptp(one.values[first]) == 0:
        return False
    apart = np.abs(one.values[first] - other.values[second])
    return bool((apart <= 1e-3 * np.maximum(1, np.abs(one.values[first]))).all())


def folder(path: Path) -> Iterator[list[Path]]:
    """List the logs below a folder, grouping the files that belong to one run.

    Of a trainer's checkpoints only the longest state is used, because each state holds the history
    before it. Event files in one folder belong together. So do files of samples whose names differ
    only in a number.
    """
    states: dict[Path, list[Path]] = {}
    events: dict[Path, list[Path]] = {}
    numbered: dict[str, list[Path]] = {}
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        if file.name == STATE:
            parent = file.parent
            run = (
                parent.parent
                if parent.name.startswith("checkpoint-") and parent != path
                else parent
            )
            states.setdefault(run, []).append(file)
        elif "tfevents" in file.name:
            events.setdefault(file.parent, []).append(file)
        elif _is_log(file):
            key = _NUMBER.sub("#", str(file.relative_to(path)))
            numbered.setdefault(key, []).append(file)
    for files in states.values():
        yield [max(files, key=lambda file: (file.stat().st_size, str(file)))]
    yield from events.values()
    for files in numbered.values():
        if len(files) > 1 and _are_samples(files[0]):
            yield sorted(files, key=lambda file: [int(n) for n in _NUMBER.findall(str(file))])
        else:
            yield from ([file] for file in files)


def _is_log(file: Path) -> bool:
    name = file.name.lower()
    for ending in _PACKED:
        name = name.removesuffix(ending)
    return name.endswith(_LOGS)


def _are_samples(file: Path) -> bool:
    try:
        return any(is_dump(table) for table in _tables(file))
    except (ValueError, OSError):
        return False


def _read(files: Sequence[Path], column: str | None, step_column: str | None) -> list[Log]:
    if len(files) > 1 and "tfevents" not in files[0].name:
        dumps = [table for file in files for table in _tables(file) if is_dump(table)]
        steps = [_with_step(table, file) for table, file in zip(dumps, files, strict=False)]
        table, reward = by_step(join(steps), column)
        return logs_of(files[0].parent, table, reward, step_column)
    if "tfevents" in files[0].name:
        return _read_event_files(files, column, step_column)
    file = files[0]
    tables = _tables(file)
    if len(tables) == 1 and is_dump(tables[0]):
        table, reward = by_step(_with_step(tables[0], file), column)
        return logs_of(file, table, reward, step_column)
    if not tables:
        raise ValueError(
            f"{file} holds no known metrics; readable are trainer_state.json, JSON, JSON lines, "
            "CSV, Parquet, TensorBoard and W&B files, and the console output of trainers"
        )
    return logs_of(file, _best(file, tables, column), column, step_column)


def _with_step(table: Table, file: Path) -> Table:
    """Add a step column to a dump that lacks one, from the number in its file name."""
    if names.find(table.numbers, ("step", "global_step", "iteration")):
        return table
    found = _NUMBER.findall(file.name) or _NUMBER.findall(file.parent.name) or ["0"]
    return with_column(table, "step", np.full(table.rows, float(found[-1])))


def _best(file: Path, tables: Sequence[Table], column: str | None) -> Table:
    """Return the table with the metric in the most rows, as a console may give several tables."""
    if len(tables) == 1:
        return tables[0]

    def known(table: Table) -> int:
        name = column or names.find_reward(list(table.numbers))
        return len(table.numbers[name].at) if name is not None and name in table.numbers else 0

    best = max(tables, key=known)
    if known(best) == 0:
        raise ValueError(missing(file, tables, column))
    return best


def _tables(file: Path) -> list[Table]:
    source = open_source(file)
    if is_parquet(source.head):
        return [read_parquet(source)]
    if is_wandb(source.head):
        return [read_wandb(source)]
    if is_events(source.head) or "tfevents" in source.name:
        return [read_events(source)[0]]
    if source.head.startswith(_ZIP):
        raise ValueError(f"{file} is a zip archive: unpack it and name the log in it")
    if is_binary(source):
        raise ValueError(f"{file} is neither text nor a Parquet, TensorBoard or W&B file")
    table = read_json(source) or read_csv(source)
    tables = [table] if table is not None else Console().read(source.lines())
    notes = tuple(dict.fromkeys(source.notes))
    return [replace(table, notes=(*table.notes, *notes)) for table in tables]


def _read_event_files(
    files: Sequence[Path], column: str | None, step_column: str | None
) -> list[Log]:
    """Read the event files of one folder in the order of their start, and note damaged ones."""
    read, errors = [], []
    for file in files:
        try:
            read.append((*read_events(open_source(file)), file))
        except ValueError as error:
            errors.append(str(error))
    read = [one for one in read if one[0].rows]
    if not read:
        raise ValueError(errors[0] if errors else f"{files[0].parent}: event files without scalars")
    read.sort(key=lambda one: one[1])
    table = join([_numbered(table, i) for i, (table, _, _) in enumerate(read)])
    notes = [*table.notes, *errors]
    if len(read) > 1:
        notes.append(f"{len(read)} event files, in the order of their start")
    place = files[0].parent if len(files) > 1 else files[0]
    return logs_of(place, replace(table, notes=tuple(notes)), column, step_column)


def _numbered(table: Table, number: int) -> Table:
    """Add a column with the number of the file of each row, because a run may end with a file."""
    return with_column(table, FILE, np.full(table.rows, float(number)))
