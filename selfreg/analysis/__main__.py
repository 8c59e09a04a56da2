"""Judge and compare all runs in a folder.

    selfreg analyze --runs=runs/tiny

Writes each run's report where it is missing or older than the run, and into --out the combined
trajectory.png, comparison.md and report.html, and every statistic of every campaign and chain as
campaigns.csv and chains.csv. Where --out is named, or a run belongs to one of the paper's waves,
OUT/paper holds the paper's tables and figures with our numbers beside its own: tables.md, a .csv
and a .tex of each table, a .png and a .svg of each figure. What was not run says so.
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

_RUNS = flags.DEFINE_string("runs", None, "A folder; every run at or below it is taken.")
_OUT = flags.DEFINE_string(
    "out", None, "Where the comparison goes; the folder of --runs by default."
)
_BASELINE = flags.DEFINE_string(
    "baseline", "", "The condition to subtract from the others; by default the naive A0."
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
