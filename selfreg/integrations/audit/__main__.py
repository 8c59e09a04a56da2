"""Decide if a logged run of any trainer collapsed, or if that is noise.

    selfreg audit out/checkpoint-500
    selfreg audit --html --out=pages runs/
    selfreg audit wandb_export.csv --column="run-1 - train/reward"
    selfreg audit metrics.jsonl --column=eval/acc --samples_per_step=256

The command reads trainer states, JSON, JSON lines, CSV, Parquet, TensorBoard and W&B files, dumps
of samples and console output, compressed or not, and folders of these. docs/audit.md lists the
trainers. For every run it prints the verdict with its null, the peak, the checkpoint that early
stopping would have kept, and leading indicators. It writes NAME.audit.png and NAME.audit.json into
--out. Exit code 2 means that a file could not be judged.
"""

import sys
from pathlib import Path

from absl import flags

from selfreg.run.command import Command, Exit
from selfreg.run.command import run as run_command

_COLUMN = flags.DEFINE_string("column", None, "The metric. Default: the trainer's mean reward.")
_STEP_COLUMN = flags.DEFINE_string("step_column", None, "The column that holds the step.")
_SAMPLES = flags.DEFINE_float(
    "samples_per_step",
    None,
    "Completions behind one logged value: the whole batch of a step. Default: read from the log or "
    "from the values. If both fail, the noise is measured.",
)
_PROBLEMS = flags.DEFINE_float(
    "problems_per_step", None, "Distinct problems behind one value: completions / group size."
)
_WINDOW = flags.DEFINE_integer(
    "window", None, "Values to smooth over. Default: 5; with more than 999 values, a hundredth."
)
_MARGIN = flags.DEFINE_float(
    "margin", None, "Smallest drop that is a collapse. Default: 0.1, or 0.1 of the curve's span."
)
_LOW = flags.DEFINE_float("low", None, "Reward of a failed completion, if rewards are binary.")
_HIGH = flags.DEFINE_float("high", None, "Reward of a passed completion, if rewards are binary.")
_OUT = flags.DEFINE_string("out", ".", "Folder for the plots, the JSON files and the pages.")
_HTML = flags.DEFINE_bool("html", False, "Write a page for each run, and one that compares them.")


def main(arguments: list[str]) -> int:
    """Audit each file."""
    paths = [Path(name) for name in arguments]
    if not paths:
        raise ValueError("name at least one log: selfreg audit FILE...")
    if _LOW.value is not None and _HIGH.value is not None and not _LOW.value < _HIGH.value:
        raise ValueError(f"--low={_LOW.value} must be less than --high={_HIGH.value}")
    # Imported late, so that a wrong flag is reported before NumPy and Matplotlib load.
    from selfreg.integrations.audit.batch import Options, audit_all

    options = Options(
        _COLUMN.value, _STEP_COLUMN.value, _SAMPLES.value, _PROBLEMS.value, _WINDOW.value,
        _MARGIN.value, _LOW.value, _HIGH.value, Path(_OUT.value), _HTML.value,
    )  # fmt: skip
    errors = audit_all(paths, options, print)
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    return Exit.MISTAKE if errors else Exit.OK


def run() -> None:
    """Run the command."""
    run_command(main, Command("audit", "selfreg.audit", "FILE...", "FILE..."))


if __name__ == "__main__":
    run()
