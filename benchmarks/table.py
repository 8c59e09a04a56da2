"""Print results on the terminal: tables, aims, and the spread of numbers."""

import os
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from rich.console import Console
from rich.table import Table


class Aim(NamedTuple):
    """An aim, the measured value, and whether the value meets the aim."""

    wanted: str
    measured: str
    holds: bool


def show(title: str, columns: list[str], rows: list[list[str]], note: str) -> None:
    """Print a table, and a note on how it was measured."""
    table = Table(title=title)
    for column in columns:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*row)
    console = Console()
    console.print(table)
    console.print(note, soft_wrap=True, markup=False, highlight=False)


def show_aims(aims: Sequence[Aim]) -> None:
    """Print a line for each aim."""
    for aim in aims:
        print(f"  {'holds ' if aim.holds else 'MISSED'}  {aim.wanted}: {aim.measured}")
    print()


def spread(values: Sequence[float], digits: int = 2, unit: str = "") -> str:
    """Format the median of some values, with the minimum and maximum if there are several."""
    middle = f"{statistics.median(values):.{digits}f}{unit}"
    if len(values) == 1:
        return middle
    return f"{middle} ({min(values):.{digits}f}..{max(values):.{digits}f})"


def load_average() -> str:
    """Format the machine's load average over one, five and fifteen minutes."""
    return "Load average: " + ", ".join(f"{load:.1f}" for load in os.getloadavg()) + "."
