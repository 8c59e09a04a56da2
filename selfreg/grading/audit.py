"""Measure how noisy the reward of a run was, and how open to shortcuts.

    selfreg regrade --run=runs/tiny/A0/seed_7

Grades a random sample of the run's stored programs again, several times, and compares the verdicts
with each other and with the stored one. Also searches every program that passed for shortcuts.
Writes every number, and the programs behind each, to --out.

The problems are built anew from the run's config. A program that times out costs its whole limit
each time that it is graded.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import flags
from rich.console import Console
from rich.table import Table

from selfreg.grading.pool import GraderError
from selfreg.grading.reliability import STREAMS, audit
from selfreg.run import rundir
from selfreg.run.command import Command, Exit, fail
from selfreg.run.command import run as run_command

_RUN = flags.DEFINE_string("run", None, "A run folder.")
_OUT = flags.DEFINE_string("out", None, "The file to write; audit.json in the run folder.")
_SAMPLE = flags.DEFINE_integer("sample", 200, "Programs to grade again; 0: search shortcuts only.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "How often each of them.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the sample.")
_STREAMS = flags.DEFINE_list(
    "streams", ",".join(STREAMS), "Which completions: train, panel, report."
)
_WORKERS = flags.DEFINE_integer("workers", 0, "Processes; 0: one a core.")

AUDIT = "audit.json"
_EXAMPLES = 5


def show(result: Mapping[str, Any], console: Console) -> None:
    """Print the main results of an audit."""
    limits, shortcuts = result["limits"], result["shortcuts"]
    rows = {
        "verdict flips": ("programs", result["flips"]["verdict"]),
        "reward flips": ("programs", result["flips"]["reward"]),
        "verdict noise": ("re-grades", result["noise"]["verdict"]),
        "reward noise": ("re-grades", result["noise"]["reward"]),
        "pass@1 at stake": ("completions", result["pass_at_1"]),
        "timeouts": ("all programs", limits["timeouts"]),
        "near the limit": ("all programs", limits["near"]),
        "timeouts again": ("programs", limits["timeouts_again"]),
        "near the limit again": ("programs", limits["near_again"]),
        "suspicious passes": ("all passes", shortcuts["passes"]),
    }
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in ("", "hits", "of", "", "rate", "95% interval"):
        table.add_column(name, justify="right" if name in ("hits", "of", "rate") else "left")
    for name, (unit, row) in rows.items():
        if row["n"]:
            bounds = f"[{row['low']:.4f}, {row['high']:.4f}]" if "low" in row else "all there are"
            cells = (str(row["hits"]), str(row["n"]), unit, f"{row['rate']:.4f}", bounds)
        else:
            cells = ("", "", "", "not run", "")
        table.add_row(name, *cells)
    console.print(table)
    for line in _lines(result):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _lines(result: Mapping[str, Any]) -> list[str]:
    limits, shortcuts = result["limits"], result["shortcuts"]
    lines = [
        f"\n{result['completions']} completions hold {result['programs']} distinct programs.",
        *_lines_of_grades(result),
        f"Near the limit: at least {limits['near_means']:.0%} of the CPU limit, without a timeout.",
        f"Without the suspicious passes, {shortcuts['pass_rate_without']:.4f} of the completions"
        f" with a program would have passed instead of {shortcuts['pass_rate']:.4f}.",
    ]
    lines += [
        f"  {name} ({row['programs']}): {row['meaning']}"
        for name, row in shortcuts["patterns"].items()
        if row["programs"]
    ]
    for kind, examples in (
        ("flipped", result["flipped"]),
        ("near the limit", limits["programs"]),
        ("suspicious", shortcuts["programs"]),
    ):
        lines += [
            f"{kind}: {each['problem']} in {each['file']}: {each['what']}"
            for each in examples[:_EXAMPLES]
        ]
    return lines


def _lines_of_grades(result: Mapping[str, Any]) -> list[str]:
    count, again = result["flips"]["verdict"]["n"], f"{result['repeats']} times more"
    if not count:
        return ["None of them was graded again."]
    lines = [
        f"Graded {again}, sampled with seed {result['seed']}: {count} programs, each as likely as"
        f" any other, and those of {result['pass_at_1']['n']} completions.",
        "Flip: not the same every time, the stored verdict included. Noise: new grades that differ"
        " from the first new one; its interval counts programs, for their grades are not"
        " independent.",
    ]
    for when, counts in result["outcomes"].items():
        named = ", ".join(f"{number} {name}" for name, number in sorted(counts.items()))
        lines.append(f"Outcomes of the programs, {when}: {named}.")
    noise = result["noise"]["verdict"]
    if noise["n"] and not noise["hits"]:
        lines.append(
            f"No grade differed; with {count} programs, a rate up to {noise['high']:.4f} is not"
            " ruled out."
        )
    lines.append(
        "With 95% confidence, grader noise moves the run's pass@1 by at most"
        f" {result['pass_at_1']['high']:.4f}, as far as programs graded {again} show it."
    )
    return lines


def main(_: list[str]) -> None:
    """Audit a run, write the results to a file and print them."""
    if _RUN.value is None:
        raise ValueError("--run is missing: name a run folder, such as runs/tiny/A0/seed_7")
    run = Path(_RUN.value)
    out = Path(_OUT.value or run / AUDIT)
    if run.is_dir() and not out.parent.is_dir():
        raise ValueError(f"--out={out}: there is no folder {out.parent}")
    try:
        result = audit(
            run,
            sample=_SAMPLE.value,
            repeats=_REPEATS.value,
            seed=_SEED.value,
            streams=_STREAMS.value,
            workers=_WORKERS.value,
        )
    except GraderError as error:
        fail(error, Exit.FAILED)
    rundir.write_json(out, result)
    show(result, Console())
    print(f"Every number and program: {out}")


def run() -> None:
    """Run the command."""
    run_command(main, Command("regrade", "selfreg.grading.audit", "--run=RUN"))


if __name__ == "__main__":
    run()
