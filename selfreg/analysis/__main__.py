"""Judge and compare all runs in a folder.

    selfreg analyze --runs=runs/tiny

A run's own report is written if it is missing or older than the run. --out receives the combined
trajectory.png, comparison.md and report.html, and every statistic of every campaign and chain as
campaigns.csv and chains.csv. If --out is given, or if a run belongs to one of the paper's waves,
OUT/paper holds the paper's tables and figures with our numbers beside the printed ones: tables.md,
a .csv and a .tex for each table, a .png and a .svg for each figure. Cells without a run say so.
"""

from pathlib import Path

from absl import flags
from rich.console import Console

from selfreg.analysis.overview import compare_folder, write_paper
from selfreg.analysis.paper.tables_runs import collect
from selfreg.run.command import Command
from selfreg.run.command import run as run_command
from selfreg.run.rundir import METRICS

_PAPER = "paper"

_RUNS = flags.DEFINE_string("runs", None, "Folder to search for runs, subfolders included.")
_OUT = flags.DEFINE_string(
    "out", None, "Folder for the comparison. Default: the folder given by --runs."
)
_BASELINE = flags.DEFINE_string(
    "baseline", "", "Condition to subtract from the others. Default: the naive A0."
)


def main(_: list[str]) -> None:
    """Compare the runs, and write what was found."""
    if _RUNS.value is None:
        raise ValueError("--runs is missing: name a folder, such as --runs=runs/tiny")
    folder, console = Path(_RUNS.value), Console()
    out = Path(_OUT.value or folder)
    if _OUT.value and folder.is_dir() and not any(folder.rglob(METRICS)):
        write_paper([], out / _PAPER, console)
        return
    runs = compare_folder(folder, out, console, _BASELINE.value)
    if _OUT.value or collect(runs).chains:
        write_paper(runs, out / _PAPER, console)


def run() -> None:
    """Run the command."""
    run_command(main, Command("analyze", "selfreg.analysis", "--runs=FOLDER"))


if __name__ == "__main__":
    run()
