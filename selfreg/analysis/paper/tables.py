"""Build the paper's tables from stored runs, with our numbers below the printed ones.

Table 3 is prose and has no counterpart here.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from selfreg.analysis.paper.tables_campaigns import table_11, table_16
from selfreg.analysis.paper.tables_cells import Table
from selfreg.analysis.paper.tables_chains import (
    table_1,
    table_2,
    table_4,
    table_5,
    table_6,
    table_7,
    table_8,
    table_9,
    table_10,
    table_12,
    table_17,
)
from selfreg.analysis.paper.tables_cost import table_18
from selfreg.analysis.paper.tables_panels import table_13, table_14, table_15
from selfreg.analysis.paper.tables_runs import PaperRuns
from selfreg.analysis.paper.tables_write import (
    CONVENTIONS,
    differences,
    grid,
    latex,
    markdown,
    to_csv,
)

TABLES: Mapping[int, Callable[[PaperRuns], Table]] = {
    1: table_1, 2: table_2, 4: table_4, 5: table_5, 6: table_6, 7: table_7, 8: table_8, 9: table_9,
    10: table_10, 11: table_11, 12: table_12, 13: table_13, 14: table_14, 15: table_15,
    16: table_16, 17: table_17, 18: table_18,
}  # fmt: skip
FILE = "tables.md"


def write_tables(runs: PaperRuns, out: Path, figures: str = "") -> None:
    """Write all tables into tables.md, and each as table_NN.csv and table_NN.tex.

    Differences go into table_NN_differences.csv.

    Args:
      runs: The chains. Without chains, every measured cell says "not run".
      out: Folder for the files; created if it does not exist.
      figures: Markdown that shows the figures, appended to the tables.
    """
    out.mkdir(parents=True, exist_ok=True)
    made = [table(runs) for table in TABLES.values()]
    for table in made:
        name = f"table_{table.number:02d}"
        _write(out / f"{name}.csv", to_csv(grid(table, repeat=True)))
        _write(out / f"{name}.tex", latex(table))
        compared = differences(table)
        if compared is not None:
            _write(out / f"{name}_differences.csv", to_csv(compared))
    left_out = [f"Left out: {'; '.join(runs.left_out)}."] if runs.left_out else []
    head = ["# The paper's tables and figures, and ours", CONVENTIONS, *left_out]
    body = [*head, *map(markdown, made), *([figures] if figures else [])]
    _write(out / FILE, "\n\n".join(part.rstrip() for part in body) + "\n")


def _write(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")
