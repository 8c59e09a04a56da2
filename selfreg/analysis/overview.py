"""Judge and compare every run below a folder, and write the comparison."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from rich.console import Console
from rich.table import Table

from selfreg.analysis import compare, page, words
from selfreg.analysis.compare import Judged
from selfreg.analysis.load import Run, find_runs, label_runs, load_run
from selfreg.analysis.paper.figures import write_figures
from selfreg.analysis.paper.tables import FILE, write_tables
from selfreg.analysis.paper.tables_runs import collect
from selfreg.analysis.plot import image, trajectory_figure
from selfreg.analysis.report import REPORT, TRAJECTORY, write_report
from selfreg.analysis.sheets import write_sheets
from selfreg.analysis.verdict import judge_run
from selfreg.run.rundir import METRICS

COMPARISON = "comparison.md"
CAPTIONS = (
    "pass@1 on the report panel: mean over finished seeds [95% t interval over seeds]. Kept: the "
    "policy that the condition rolls forward from the last campaign.",
    "Difference between the kept policies, paired by seed. p: two-sided exact sign-flip test, "
    "never below 2^(1 - seeds). Holm p: adjusted for the rows of this table. Updates: first "
    "condition; second condition.",
    "pass@1 on the report panel ± one standard error, clustered by problem. Done: finished "
    "campaigns. Best peak: the peak of the campaign whose control metric rose highest. Kept: the "
    "policy that the condition rolls forward from the last campaign.",
)
WIDE_CELL = 24  # in characters; a cell this wide may be broken on a narrow terminal


def compare_folder(folder: Path, out: Path, console: Console, baseline: str = "") -> list[Run]:
    """Judge and compare the runs below a folder.

    Args:
      folder: The folder to search.
      out: Folder for the comparison; created if it does not exist.
      console: Receives the tables and notes.
      baseline: The condition to subtract; see `compare.pair`.

    Returns:
      The runs.

    Raises:
      ValueError: No run can be read, two runs are the same chain, no condition is the baseline, or
        `out` is a run's own folder, whose report the comparison would overwrite.
    """
    runs = _load(find_runs(folder), console)
    folders = [run.folder.resolve() for run in runs]
    if folders == [out.resolve()]:
        console.print(write_report(out), markup=False, highlight=False)
        return runs
    if out.resolve() in folders:
        raise ValueError(f"--out={out} is a run's own folder; name another folder")
    judged = [Judged(run, judge_run(run)) for run in runs]
    pairings = compare.pair(judged, baseline)
    tables = [compare.summary(judged), compare.differences(pairings), compare.table(judged)]
    shown = {caption: rows for caption, rows in zip(CAPTIONS, tables, strict=True) if rows}
    notes = [line for pairing in pairings for line in compare.describe(pairing)]
    if differing := compare.config_differences(runs):
        notes.append(f"WARNING: the configs also differ in {'; '.join(differing)}.")
    for run in runs:
        report = run.folder / REPORT
        if not report.exists() or report.stat().st_mtime < (run.folder / METRICS).stat().st_mtime:
            write_report(run.folder)

    out.mkdir(parents=True, exist_ok=True)
    (out / TRAJECTORY).write_bytes(image(trajectory_figure(runs), "png"))
    write_sheets(judged, out)
    text = [part for caption, rows in shown.items() for part in (compare.markdown(rows), caption)]
    (out / COMPARISON).write_text("\n\n".join([*text, *notes]) + "\n", encoding="utf-8")
    (out / REPORT).write_text(_page(folder, out, judged, shown, notes), encoding="utf-8")
    _show(console, shown, notes)
    console.print(f"Report: {out / REPORT}", markup=False, highlight=False)
    return runs


def write_paper(runs: Sequence[Run], out: Path, console: Console) -> None:
    """Write the paper's tables and figures for these runs, and print how many chains they use.

    Args:
      runs: Any runs; only those of the paper's waves are used.
      out: Folder for the files; created if it does not exist.
      console: Receives the path of the tables.

    Raises:
      ValueError: Two finished runs are the same chain.
    """
    taken = collect(runs)
    write_tables(taken, out, write_figures(taken, out))
    count = sum(len(chains) for chains in taken.chains.values())
    text = f"The paper's tables and figures, from {count} finished chains: {out / FILE}"
    console.print(text, markup=False, highlight=False)


def _load(folders: Sequence[Path], console: Console) -> list[Run]:
    """Load the runs that can be read, and print a line for each that cannot."""
    runs = []
    for folder in folders:
        try:
            runs.append(load_run(folder))
        except ValueError as error:
            console.print(f"left out: {error}", markup=False)
    if not runs:
        raise ValueError("none of the runs can be read")
    return runs


def _page(
    folder: Path,
    out: Path,
    judged: Sequence[Judged],
    tables: Mapping[str, Sequence[dict[str, str]]],
    notes: Sequence[str],
) -> str:
    runs = [run for run, _ in judged]
    return page.render(
        "comparison.html.j2",
        title=" and ".join(sorted(set(label_runs(runs)))),
        folder=str(folder),
        notes=notes,
        trajectory=page.themed(lambda theme: trajectory_figure(runs, theme)),
        tables=tables,
        runs=[
            {
                "name": f"{label}, seed {run.seed}",
                "text": words.describe(verdict),
                "link": quote(os.path.relpath(run.folder / REPORT, out)),
            }
            for label, (run, verdict) in zip(label_runs(runs), judged, strict=True)
        ],
    )


def _show(
    console: Console, tables: Mapping[str, Sequence[dict[str, str]]], notes: Sequence[str]
) -> None:
    for caption, rows in tables.items():
        table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
        for name in rows[0]:
            wide = max(len(row[name]) for row in rows) >= WIDE_CELL
            table.add_column(name, no_wrap=not wide, overflow="fold")
        for row in rows:
            table.add_row(*row.values())
        console.print(table)
        console.print(caption + "\n", style="dim", highlight=False)
    for line in notes:
        style = "bold red" if line.startswith("WARNING") else None
        console.print(line, style=style, markup=False, highlight=False)
