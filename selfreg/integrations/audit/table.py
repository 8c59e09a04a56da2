"""The columnar form of a log, which every reader returns.

A column stores its values with their row numbers. A row without a metric therefore differs from a
row that logs it as NaN, and sparse logs stay small.
"""

import re
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

_DEPTH = 8
# Longer texts are prompts or programs, which are only compared for equality.
_LABEL = 80
_WRAPPED = re.compile(r"[\w.]*\(\[*\s*([-+]?(?:[\d.]+(?:[eE][-+]?\d+)?|nan|inf))\b")
# Keys that only wrap a row, in verl's file logger and ROLL's console.
_WRAPPERS = ("data", "metrics")


@dataclass(frozen=True, slots=True)
class Column:
    """The numbers of one metric.

    Attributes:
      at: int64 [n], increasing, rows that hold the metric, from 0.
      values: float64 [n]; NaN and infinities were logged as such.
    """

    at: np.ndarray
    values: np.ndarray


@dataclass(frozen=True, slots=True)
class Labels:
    """The texts of one column.

    Attributes:
      at: int64 [n], increasing, rows that hold a text, from 0.
      codes: int64 [n], indices into `names`.
      names: The distinct texts; a digest in place of each long text.
    """

    at: np.ndarray
    codes: np.ndarray
    names: Sequence[str]


@dataclass(frozen=True, slots=True)
class Table:
    """One log, before a metric is chosen.

    Attributes:
      format: Format that the log was read as.
      rows: Number of rows read.
      numbers: Columns of numbers, by name.
      texts: Columns of text, by name.
      facts: Settings that the log states, such as the batch size.
      dropped: Number of rows or lines that could not be read, by reason.
      notes: Clauses about the reading that belong beside the verdict.
      name: Name of the run; empty if the file holds only one.
    """

    format: str
    rows: int
    numbers: Mapping[str, Column]
    texts: Mapping[str, Labels] = field(default_factory=dict)
    facts: Mapping[str, float] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    name: str = ""


class Builder:
    """Collects rows into a table."""

    def __init__(self) -> None:
        self.rows = 0
        self.dropped: Counter[str] = Counter()
        self._numbers: dict[str, tuple[array[int], array[float]]] = {}
        self._texts: dict[str, tuple[array[int], array[int], dict[str, int]]] = {}

    def add(self, row: Mapping[Any, Any]) -> None:
        """Add a row; the keys of nested mappings are joined."""
        for name, value in _flat(row, "", 0):
            number = to_number(value, name)
            if number is not None:
                self.number(name, number)
            elif isinstance(value, str) and value:
                self._text(name, value)
        self.rows += 1

    def number(self, name: str, value: float) -> None:
        """Set a number of the current row; if a name occurs twice, the first value counts."""
        found = self._numbers.get(name)
        if found is None:
            found = self._numbers[name] = (array("q"), array("d"))
        if not found[0] or found[0][-1] != self.rows:
            found[0].append(self.rows)
            found[1].append(value)

    def _text(self, name: str, value: str) -> None:
        found = self._texts.get(name)
        if found is None:
            found = self._texts[name] = (array("q"), array("q"), {})
        at, codes, names = found
        label = value if len(value) <= _LABEL else f"{value[:20]}... #{hash(value):x}"
        if not at or at[-1] != self.rows:
            at.append(self.rows)
            codes.append(names.setdefault(label, len(names)))

    def table(
        self,
        form: str,
        facts: Mapping[str, float] | None = None,
        notes: Sequence[str] = (),
        name: str = "",
    ) -> Table:
        """Return the rows added so far as a table."""
        numbers = {
            key: Column(np.array(at, np.int64), np.array(values, np.float64))
            for key, (at, values) in self._numbers.items()
        }
        texts = {
            key: Labels(np.array(at, np.int64), np.array(codes, np.int64), list(names))
            for key, (at, codes, names) in self._texts.items()
        }
        return Table(
            form, self.rows, numbers, texts, dict(facts or {}), dict(self.dropped), tuple(notes),
            name,
        )  # fmt: skip


def to_number(value: Any, name: str = "") -> float | None:
    """Convert a cell to a number, including NaN and infinities; return None if it is not one.

    This also understands np.float64(0.5), tensor(0.5, device='cuda:0'), [0.5], 12.5% as 0.125, and
    "5/200" if the name contains "step".
    """
    if isinstance(value, (int, float)):
        try:
            return float(value)
        except OverflowError:
            return float("inf") if value > 0 else float("-inf")
    if isinstance(value, str):
        return _from_text(value, name)
    if isinstance(value, (list, tuple)):
        return to_number(value[0], name) if len(value) == 1 else None
    if value is None or isinstance(value, (Mapping, bytes)):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _from_text(text: str, name: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        pass
    text = text.strip()
    if len(text) > _LABEL:
        return None
    if text.endswith("%"):
        number = _from_text(text[:-1], "")
        return None if number is None else number / 100
    if "(" in text and (found := _WRAPPED.match(text)):
        return float(found[1])
    if "/" in text and "step" in name and (found := re.fullmatch(r"(\d+)\s*/\s*\d+", text)):
        return float(found[1])
    return None


def _flat(row: Mapping[Any, Any], prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
    for key, value in row.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            if depth < _DEPTH:
                inner = prefix if key in _WRAPPERS else f"{name}/"
                yield from _flat(value, inner, depth + 1)
        else:
            yield name, value


def take(table: Table, rows: np.ndarray, name: str, notes: Sequence[str] = ()) -> Table:
    """Select the rows of one run.

    Args:
      table: All rows.
      rows: bool [table.rows], the rows to keep.
      name: Name of the run.
      notes: Notes to add to those of the table.
    """
    new = np.cumsum(rows) - 1

    def keep(at: np.ndarray) -> np.ndarray:
        return rows[at]

    numbers = {
        key: Column(new[c.at[keep(c.at)]], c.values[keep(c.at)]) for key, c in table.numbers.items()
    }
    texts = {
        key: Labels(new[t.at[keep(t.at)]], t.codes[keep(t.at)], t.names)
        for key, t in table.texts.items()
    }
    return replace(
        table,
        rows=int(rows.sum()),
        numbers={k: c for k, c in numbers.items() if len(c.at)},
        texts={k: t for k, t in texts.items() if len(t.at)},
        notes=(*table.notes, *notes),
        name=name,
    )


def with_column(table: Table, name: str, values: np.ndarray) -> Table:
    """Return the table with one more column, float64 [rows]."""
    column = Column(np.arange(table.rows), np.asarray(values, np.float64))
    return replace(table, numbers={**table.numbers, name: column})


def join(tables: Sequence[Table]) -> Table:
    """Concatenate the tables of one run, in order."""
    if len(tables) == 1:
        return tables[0]
    starts = np.cumsum([0, *(t.rows for t in tables)])
    numbers: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    texts: dict[str, list[tuple[np.ndarray, np.ndarray, Sequence[str]]]] = {}
    for table, start in zip(tables, starts, strict=False):
        for name, column in table.numbers.items():
            numbers.setdefault(name, []).append((column.at + start, column.values))
        for name, labels in table.texts.items():
            texts.setdefault(name, []).append((labels.at + start, labels.codes, labels.names))
    dropped: Counter[str] = Counter()
    for table in tables:
        dropped.update(table.dropped)
    return Table(
        tables[0].format,
        int(starts[-1]),
        {
            name: Column(
                np.concatenate([at for at, _ in parts]), np.concatenate([v for _, v in parts])
            )
            for name, parts in numbers.items()
        },
        {name: _join_labels(parts) for name, parts in texts.items()},
        {key: value for table in tables for key, value in table.facts.items()},
        dict(dropped),
        tuple(dict.fromkeys(note for table in tables for note in table.notes)),
        tables[0].name,
    )


def _join_labels(parts: Sequence[tuple[np.ndarray, np.ndarray, Sequence[str]]]) -> Labels:
    names: dict[str, int] = {}
    codes = []
    for _, own, labels in parts:
        table = np.array([names.setdefault(label, len(names)) for label in labels], np.int64)
        codes.append(table[own])
    return Labels(np.concatenate([at for at, _, _ in parts]), np.concatenate(codes), list(names))
