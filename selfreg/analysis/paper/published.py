"""The paper's printed values: its tables, cell by cell, and the numbers it states on figures."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

_FILE = Path(__file__).with_suffix(".toml")


@dataclass(frozen=True, slots=True)
class PrintedRow:
    """One printed row.

    Attributes:
      labels: The cells that name the row.
      cells: The printed value of each column.
      runs: The chains behind the row, as WAVE/CONDITION; "" if columns or seeds determine them.
    """

    labels: tuple[str, ...]
    cells: tuple[str, ...]
    runs: str = ""


@dataclass(frozen=True, slots=True)
class PrintedComparison:
    """A difference after - before, paired by seed, with the paper's printed value."""

    name: str
    after: str
    before: str
    printed: str


@dataclass(frozen=True, slots=True)
class PrintedTable:
    """One printed table.

    Attributes:
      number: Number of the table in the paper.
      title: Title of the table.
      labels: Headers of the leading columns, which name a row.
      columns: Headers of the other columns.
      rows: The rows, in order.
      column_runs: The chains of each column, if columns are conditions.
      comparisons: The differences to compute.
      notes: Known errors of the paper, and rows whose numbers appear only in its text.
    """

    number: int
    title: str
    labels: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[PrintedRow, ...]
    column_runs: tuple[str, ...]
    comparisons: tuple[PrintedComparison, ...]
    notes: tuple[str, ...]

    @property
    def sources(self) -> tuple[str, ...]:
        """The chains that the table reads, without repetition."""
        compared = (name for c in self.comparisons for name in (c.after, c.before))
        named = (*self.column_runs, *(row.runs for row in self.rows if row.runs), *compared)
        return tuple(dict.fromkeys(named))


@cache
def tables() -> Mapping[int, PrintedTable]:
    """Return the paper's tables by number, without Table 3, which is prose."""
    return {row["number"]: _table(row) for row in _read()["table"]}


def figure(number: int) -> Mapping[str, Any]:
    """Return the paper's numbers for Figure 1 or 3."""
    return _read()[f"figure{number}"]


@cache
def sources() -> frozenset[str]:
    """Return the chains that any table or figure reads."""
    read = {name for table in tables().values() for name in table.sources}
    return frozenset(read | {figure(1)["runs"], *figure(3)["runs"]})


def _table(row: Mapping[str, Any]) -> PrintedTable:
    return PrintedTable(
        row["number"],
        row["title"],
        tuple(row["labels"]),
        tuple(row["columns"]),
        tuple(
            PrintedRow(tuple(r["labels"]), tuple(r["cells"]), r.get("runs", ""))
            for r in row["rows"]
        ),
        tuple(row.get("column_runs", ())),
        tuple(PrintedComparison(**c) for c in row.get("comparisons", ())),
        tuple(row.get("notes", ())),
    )


@cache
def _read() -> Mapping[str, Any]:
    return tomllib.loads(_FILE.read_text(encoding="utf-8"))
