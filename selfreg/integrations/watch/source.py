"""Read a followed log, and merge its content with the earlier observations of the run.

The whole log is read again whenever it changes, with the audit's readers, so that every format that
they read can be followed. One rule then covers appending, rotation, truncation and resumed runs:
the log replaces all earlier observations from its first step on.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from selfreg.guard import Logged, Look, history
from selfreg.integrations.audit.files import read_logs
from selfreg.integrations.audit.logs import Log

Seen = Logged | Look
PANEL_COLUMNS = ("step", "problem", "reward")

_PART = re.compile(r" ?part \d+$")  # the audit's names for consecutive runs in one file


class Stamp(NamedTuple):
    """A fingerprint that changes with every write: number of files, bytes, latest change."""

    files: int
    size: int
    changed_ns: int


@dataclass(frozen=True, slots=True)
class Source:
    """A followed log or panel file.

    Attributes:
      path: A file or folder.
      column: The metric; None for the trainer's mean reward.
      step_column: The column that holds the step; None for the trainer's own.
      is_panel: Whether the file holds a panel's rates by problem.
    """

    path: Path
    column: str | None = None
    step_column: str | None = None
    is_panel: bool = False


def stamp(path: Path) -> Stamp | None:
    """Return the stamp of a file or folder; None if nothing is there yet."""
    files = [f for f in path.rglob("*") if f.is_file()] if path.is_dir() else [path]
    stats = []
    for file in files:
        try:
            stats.append(file.stat())
        except FileNotFoundError:  # the log is being rotated, or does not exist yet
            continue
    if not stats:
        return None
    return Stamp(len(stats), sum(s.st_size for s in stats), max(s.st_mtime_ns for s in stats))


def read(source: Source, *, is_final: bool) -> dict[int, Seen]:
    """Read the observations of a log by step.

    Args:
      source: The log.
      is_final: Whether to use a last line without a newline. While the trainer is writing, such a
        line may end within a number.

    Raises:
      ValueError: The log cannot be read, or lacks the metric.
    """
    if source.is_panel:
        found: dict[int, Seen] = {look.step: look for look in _panel(source.path)}
    else:
        log = _latest(source)
        steps = log.steps if np.all(log.steps % 1 == 0) else np.arange(len(log.steps))
        found = {
            int(step): Logged(int(step), float(value))
            for step, value in zip(steps, log.values, strict=True)
            if math.isfinite(value)
        }
    if found and not is_final and not _ends_whole(source.path):
        found.pop(max(found))
    return found


def _latest(source: Source) -> Log:
    """Return the run in a log; if several runs follow each other, the last of them."""
    logs = read_logs(source.path, source.column, source.step_column)
    if len({_PART.sub("", log.name) for log in logs}) > 1:
        shown = ", ".join(repr(log.name) for log in logs[:8])
        raise ValueError(
            f"{source.path} holds {len(logs)} runs ({shown}): name the file of one run, or its "
            "metric with --column"
        )
    return logs[-1]


def merge(known: Mapping[int, Seen], said: Mapping[int, Seen]) -> dict[int, Seen]:
    """Merge a log's content into the known observations, by the rule of this module."""
    if not said:
        return dict(known)
    first = min(said)
    return {step: seen for step, seen in known.items() if step < first} | dict(said)


def _panel(file: Path) -> list[Look]:
    """Read the looks of a panel file, in the JSON lines of selfreg.guard.history or in Parquet.

    A Parquet file has the columns step, problem and reward. Several rows of one problem and step
    are averaged, and the problems are sorted.
    """
    if file.suffix == ".parquet":
        return _parquet(file)
    looks = [seen for seen in history.read(file) if isinstance(seen, Look)]
    if not looks:
        raise ValueError(
            f'{file} holds no look: lines must read {{"step": 10, "rates": [0.25, 1.0]}}'
        )
    return looks


def _parquet(file: Path) -> list[Look]:
    try:
        table = pq.read_table(file, columns=list(PANEL_COLUMNS))
    except Exception as error:  # pyarrow raises many classes of its own
        raise ValueError(f"{file} needs the columns step, problem and reward: {error}") from None
    rewards: dict[int, dict[str, list[float]]] = {}
    for row in table.to_pylist():
        problems = rewards.setdefault(int(row["step"]), {})
        problems.setdefault(str(row["problem"]), []).append(float(row["reward"]))
    looks = []
    for step, problems in sorted(rewards.items()):
        own = [problems[name] for name in sorted(problems)]
        looks.append(Look(step, tuple(sum(values) / len(values) for values in own)))
    return looks


def _ends_whole(path: Path) -> bool:
    """Return whether a log ends with a newline; formats without lines count as complete."""
    if path.is_dir() or path.suffix in (".json", ".parquet") or "tfevents" in path.name:
        return True
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 1))
        return file.read() in (b"", b"\n", b"\r")


def is_panel_file(path: Path) -> bool:
    """Return whether a file is a panel: the guard's observations with rates, or Parquet."""
    if path.suffix == ".parquet" and path.is_file():
        try:
            return set(PANEL_COLUMNS) <= set(pq.read_schema(path).names)
        except (pa.ArrowInvalid, OSError):  # the file is still being written
            return False
    if path.suffix not in (".jsonl", ".ndjson") or not path.is_file():
        return False
    with path.open(errors="replace") as file:
        try:
            row = json.loads(file.readline())
        except json.JSONDecodeError:
            return False
    return isinstance(row, dict) and "rates" in row
