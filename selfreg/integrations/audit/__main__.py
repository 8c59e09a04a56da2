"""Decide if a logged run of any trainer collapsed, or if that is noise.

    selfreg audit out/checkpoint-500
    selfreg audit --html --out=pages runs/
    selfreg audit wandb_export.csv --column="run-1 - train/reward"
    selfreg audit metrics.jsonl --column=eval/acc --samples_per_step=256

Reads trainer states, JSON, JSON lines, CSV, Parquet, TensorBoard and W&B files, dumps of samples,
and what trainers print; compressed or not; folders of them. docs/audit.md lists the trainers. Every
run in them is judged: the verdict with its null, the peak, what early stopping would have kept, and
leading indicators. Writes NAME.audit.png and NAME.audit.json into --out. Exit code 2: a file could
not be judged.
"""

import sys
from pathlib import Path

from absl import flags

from selfreg.run.command import Command, Exit
from selfreg.run.command import run as run_command

_COLUMN = flags.DEFINE_string("column", None, "The metric; by default the trainer's mean reward.")
_STEP_COLUMN = flags.DEFINE_string("step_column", None, "Where the step stands.")
_SAMPLES = flags.DEFINE_float(
    "samples_per_step",
    None,
    "Completions behind one value: the whole batch of one logged step. By default what the log "
    "says, or the values show; else noise is measured.",
)
_PROBLEMS = flags.DEFINE_float(
    "problems_per_step", None, "Distinct problems among them: completions / group size."
)
_WINDOW = flags.DEFINE_integer(
    "window", None, "Values to smooth over; by default 5, of more than 999 values a hundredth."
)
_MARGIN = flags.DEFINE_float(
    "margin", None, "A smaller drop is no collapse; by default 0.1, or a tenth of the curve's span."
)
_LOW = flags.DEFINE_float("low", None, "The reward of a fail, where each is one of two.")
_HIGH = flags.DEFINE_float("high", None, "The reward of a pass, likewise.")
_OUT = flags.DEFINE_string("out", ".", "The folder for the pictures, the JSON and the pages.")
_HTML = flags.DEFINE_bool("html", False, "Write a page a run, and one that compares several.")


def main(arguments: list[str]) -> int:
    """Audit each file."""
    paths = [Path(name) for name in arguments]
    if not paths:
        raise ValueError("name at least one log: selfreg audit FILE...")
    if _LOW.value is not None and _HIGH.value is not None and not _LOW.value < _HIGH.value:
        raise ValueError(f"--low={_LOW.value} must be less than --high={_HIGH.value}")
    # Only now: a mistake in a flag should not wait for NumPy and Matplotlib.
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
