"""Write tables as Markdown, CSV and LaTeX, all from the same grid of text."""

import csv
import io
import re
from collections.abc import Sequence
from textwrap import wrap
from typing import NamedTuple

from selfreg.analysis.paper.tables_cells import PAPER, Table

CONVENTIONS = (
    "Each row shows the paper's printed value first, and ours below it, labelled by the metric. "
    "n: finished chains, one per seed. Brackets: 95% percentile bootstrap interval over chains, "
    "exact for n up to 6. A single chain has no interval: its ± is a standard error over "
    "problems. pass_rate: the paper's metric, the share of a step's samples that pass, as the "
    "mean of the last 5 steps; its start is a single step. report panel: held-out problems that "
    "select nothing, so that a peak there is not a maximum of noisy values. Differences are paired "
    "by seed, in the table's unit. p: two-sided sign-flip p, exact up to 20 seeds and never below "
    "2^(1-n). Holm p: p adjusted for all differences of a table. Missing chains show as not run."
)
_CELL, _FEW_COLUMNS = 36, 5  # characters per line of a LaTeX cell; half with more columns
_DIFFERENCES = ("Difference", "reading", "ours", "p", "Holm p", "paper")
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$",
    ">": "$>$", "±": r"$\pm$", "≈": r"$\approx$", "≥": r"$\geq$", "−": "$-$", "–": "--",
    "✓": r"$\checkmark$",
}  # fmt: skip


class Grid(NamedTuple):
    """A header and lines of equal length; `begins` marks the lines that begin a block."""

    header: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    begins: tuple[bool, ...]


def grid(table: Table, repeat: bool = False) -> Grid:
    """Convert a table's rows to a grid.

    Args:
      table: The table.
      repeat: Whether every line repeats the labels of its row, or only the first of each block.
    """
    empty = ("",) * len(table.labels)
    lines = tuple(
        (*(row.labels if repeat or row.reading == PAPER else empty), row.reading, *row.cells)
        for row in table.rows
    )
    begins = tuple(row.reading == PAPER for row in table.rows)
    return Grid((*table.labels, "reading", *table.columns), lines, begins)


def differences(table: Table) -> Grid | None:
    """Convert a table's comparisons to a grid; None if it has none."""
    if not table.comparisons:
        return None
    lines = tuple(tuple(comparison) for comparison in table.comparisons)
    return Grid(_DIFFERENCES, lines, (False,) * len(lines))


def markdown(table: Table) -> str:
    """Format a table as a section: heading, table, differences, notes."""
    compared = differences(table)
    parts = [f"## Table {table.number}. {table.title}", _markdown(grid(table))]
    parts += [] if compared is None else [_markdown(compared)]
    parts += ["\n".join(f"- {note}" for note in table.notes)] if table.notes else []
    return "\n\n".join(parts) + "\n"


def to_csv(lines: Grid) -> str:
    """Format a grid as CSV."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([lines.header, *lines.lines])
    return buffer.getvalue()


def latex(table: Table) -> str:
    """Format a table as a LaTeX float, which needs booktabs, adjustbox and amssymb."""
    compared = differences(table)
    parts = [
        r"% Needs \usepackage{booktabs,adjustbox,amssymb}.",
        r"\begin{table}[t]\centering\small",
        rf"\caption{{Table {table.number} of the paper, and ours. {escape(table.title)}.}}",
        rf"\label{{tab:paper-{table.number}}}",
        _latex(grid(table)),
    ]
    parts += [] if compared is None else [r"\par\medskip", _latex(compared)]
    if table.notes:
        notes = escape(" ".join(table.notes))
        parts.append(rf"\par\medskip\begin{{minipage}}{{\textwidth}}\footnotesize {notes}")
        parts.append(r"\end{minipage}")
    return "\n".join([*parts, r"\end{table}"]) + "\n"


def escape(text: str) -> str:
    """Escape text for LaTeX."""
    return re.sub("|".join(map(re.escape, _LATEX)), lambda found: _LATEX[found[0]], text)


def _markdown(lines: Grid) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    rule = "|" + " --- |" * len(lines.header)
    return "\n".join([line(lines.header), rule, *map(line, lines.lines)])


def _latex(lines: Grid) -> str:
    # Long cells are broken into lines. A table shrinks to the page width, and would be unreadable.
    width = _CELL if len(lines.header) <= _FEW_COLUMNS else _CELL // 2

    def line(cells: Sequence[str]) -> str:
        return " & ".join(_broken(cell, width) for cell in cells) + r" \\"

    body: list[str] = []
    for cells, begins in zip(lines.lines, lines.begins, strict=True):
        body += [r"\addlinespace"] if begins and body else []
        body.append(line(cells))
    columns = "l" * len(lines.header)
    return "\n".join(
        [
            rf"\begin{{adjustbox}}{{max width=\textwidth}}\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            line(lines.header),
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}\end{adjustbox}",
        ]
    )


def _broken(cell: str, width: int) -> str:
    """Break a cell between words into lines of at most `width` characters."""
    first, *more = wrap(cell, width, break_long_words=False) or [""]
    if not more:
        return escape(first)
    # The {} keeps a following [ from being read as the optional argument of \\.
    lines = r" \\{}".join(escape(line) for line in (first, *more))
    return rf"\begin{{tabular}}[t]{{@{{}}l@{{}}}}{lines}\end{{tabular}}"
