"""What the paper prints: its tables cell by cell, and the numbers it gives of its figures."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

_FILE = Path(__file__).with_suffix(".toml")


@dataclass(frozen=True, slots=True)
class PrintedRow:
    """One row.

    Attributes:
      labels: What names it.
      cells: What is printed in each column.
      runs: The chains it is measured on, as WAVE/CONDITION; "" where columns or seeds say so.
    """

    labels: tuple[str, ...]
    cells: tuple[str, ...]
    runs: str = ""


@dataclass(frozen=True, slots=True)
class PrintedComparison:
    """A difference after - before, paired by seed, and what the paper prints of it."""

    name: str
    after: str
    before: str
    printed: str


@dataclass(frozen=True, slots=True)
class PrintedTable:
    """One table.

    Attributes:
      number: In the paper.
      title: What it shows.
      labels: Names of the columns that name a row.
      columns: Names of the others.
      rows: In order.
      column_runs: The chains of each column, where columns are conditions.
      comparisons: What is compared.
      notes: Known slips, and rows whose numbers stand in the paper's text alone.
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
        """The chains it reads, each once."""
        compared = (name for c in self.comparisons for name in (c.after, c.before))
        named = (*self.column_runs, *(row.runs for row in self.rows if row.runs), *compared)
        return tuple(dict.fromkeys(named))


@cache
def tables() -> Mapping[int, PrintedTable]:
    """The paper's tables by number; Table 3 is prose and not among them."""
    return {row["number"]: _table(row) for row in _read()["table"]}


def figure(number: int) -> Mapping[str, Any]:
    """What the paper says of Figure 1 or 3."""
    return _read()[f"figure{number}"]


@cache
def sources() -> frozenset[str]:
    """The chains that any table or figure reads."""
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
