"""What a log says by now, and how that changes what is known of a run.

A log is read anew whenever it has changed, by the audit's own readers: whatever form they read can
be followed. Then one rule covers appending, rotation, truncation and resumed runs: what a log says
from its first step on takes the place of what was known from there.
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

_PART = re.compile(r" ?part \d+$")  # how the audit names runs one after the other in a file


class Stamp(NamedTuple):
    """What changes when a file or folder is written: files in it, bytes, latest change."""

    files: int
    size: int
    changed_ns: int


@dataclass(frozen=True, slots=True)
class Source:
    """A log or a panel file that is followed.

    Attributes:
      path: A file or folder.
      column: The metric; None: the trainer's mean reward.
      step_column: Where the step stands; None: the trainer's name for it.
      is_panel: Whether it holds the panel's rates by problem.
    """

    path: Path
    column: str | None = None
    step_column: str | None = None
    is_panel: bool = False


def stamp(path: Path) -> Stamp | None:
    """None where there is nothing yet."""
    files = [f for f in path.rglob("*") if f.is_file()] if path.is_dir() else [path]
    stats = []
    for file in files:
        try:
            stats.append(file.stat())
        except FileNotFoundError:  # between two files of a rotation, or not there yet
            continue
    if not stats:
        return None
    return Stamp(len(stats), sum(s.st_size for s in stats), max(s.st_mtime_ns for s in stats))


def read(source: Source, *, is_final: bool) -> dict[int, Seen]:
    """The observations of a log by step.

    Args:
      source: What to read.
      is_final: Whether its last line counts without a newline at its end, where a trainer that is
        just writing leaves a number cut in half.

    Raises:
      ValueError: It cannot be read, or has no such metric.
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
    """The run that a log holds; of several that were written one after the other, the last."""
    logs = read_logs(source.path, source.column, source.step_column)
    if len({_PART.sub("", log.name) for log in logs}) > 1:
        shown = ", ".join(repr(log.name) for log in logs[:8])
        raise ValueError(
            f"{source.path} holds {len(logs)} runs ({shown}): name the file of one, or its metric "
            "with --column"
        )
    return logs[-1]


def merge(known: Mapping[int, Seen], said: Mapping[int, Seen]) -> dict[int, Seen]:
    """What is known of a run once its log says this: see the module."""
    if not said:
        return dict(known)
    first = min(said)
    return {step: seen for step, seen in known.items() if step < first} | dict(said)


def _panel(file: Path) -> list[Look]:
    """The looks of a panel file: JSON lines as selfreg.guard.history has them, or parquet.

    The parquet has a row for each problem of each look, with the columns step, problem and reward;
    problems are put in order.
    """
    if file.suffix == ".parquet":
        return _parquet(file)
    looks = [seen for seen in history.read(file) if isinstance(seen, Look)]
    if not looks:
        raise ValueError(f'{file} holds no look: a line is {{"step": 10, "rates": [0.25, 1.0]}}')
    return looks


def _parquet(file: Path) -> list[Look]:
    try:
        table = pq.read_table(file, columns=list(PANEL_COLUMNS))
    except Exception as error:  # pyarrow's own classes are many
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
    """Whether a log of lines ends with a newline; other forms are whole or cannot be read."""
    if path.is_dir() or path.suffix in (".json", ".parquet") or "tfevents" in path.name:
        return True
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 1))
        return file.read() in (b"", b"\n", b"\r")


def is_panel_file(path: Path) -> bool:
    """Whether a file is the guard's own observations with rates, or a panel in parquet."""
    if path.suffix == ".parquet" and path.is_file():
        try:
            return set(PANEL_COLUMNS) <= set(pq.read_schema(path).names)
        except (pa.ArrowInvalid, OSError):  # half written
            return False
    if path.suffix not in (".jsonl", ".ndjson") or not path.is_file():
        return False
    with path.open(errors="replace") as file:
        try:
            row = json.loads(file.readline())
        except json.JSONDecodeError:
            return False
    return isinstance(row, dict) and "rates" in row
