"""The command line: did somebody else's run collapse, or is that noise?

    python -m selfreg.audit out/checkpoint-500 --samples_per_step=256 --problems_per_step=32
    python -m selfreg.audit wandb_export.csv --column="run-1 - train/reward" ...
    python -m selfreg.audit metrics.jsonl --column=eval/acc --low=0 --high=1 ...

Reads TRL's trainer_state.json and console, verl's and OpenRLHF's console, JSON lines (verl, W&B),
CSV (W&B), TensorBoard event files, or a folder of them. Prints the verdict with its null, the peak,
what early stopping would have kept, and leading indicators; writes NAME.audit.png and
NAME.audit.json into --out. The metric must be the mean of binary rewards.
"""

import sys
from pathlib import Path

from absl import app, flags

from selfreg.analysis.plot import image
from selfreg.analysis.trajectory import WINDOW
from selfreg.analysis.verdict import MARGIN
from selfreg.audit.judge import audit
from selfreg.audit.logs import read_log
from selfreg.audit.show import describe, figure
from selfreg.records import to_json
from selfreg.rundir import write_json

_COLUMN = flags.DEFINE_string("column", None, "The metric; by default the trainer's mean reward.")
_STEP_COLUMN = flags.DEFINE_string("step_column", None, "Where the step stands.")
_SAMPLES = flags.DEFINE_integer(
    "samples_per_step", None, "Completions behind one value: the whole batch of one logged step."
)
_PROBLEMS = flags.DEFINE_integer(
    "problems_per_step", None, "Distinct problems among them: completions / group size."
)
_WINDOW = flags.DEFINE_integer("window", WINDOW, "Values to smooth over.")
_MARGIN = flags.DEFINE_float("margin", MARGIN, "A smaller drop is no collapse.")
_LOW = flags.DEFINE_float("low", 0.0, "The reward of a fail.")
_HIGH = flags.DEFINE_float("high", 1.0, "The reward of a pass.")
_OUT = flags.DEFINE_string("out", ".", "The folder for the pictures and the JSON.")


def main(arguments: list[str]) -> None:
    """Audit each file; a user's mistake ends in one line, not in a traceback."""
    try:
        files = [Path(name) for name in arguments[1:]]
        if not files:
            raise ValueError("name at least one log: python -m selfreg.audit FILE...")
        samples, problems = _SAMPLES.value, _PROBLEMS.value
        if samples is None or problems is None:
            raise ValueError(
                "--samples_per_step and --problems_per_step are needed: how many completions of "
                "how many problems one logged value is the mean of. No log says so, and the noise "
                "depends on it"
            )
        if not _LOW.value < _HIGH.value:
            raise ValueError(f"--low={_LOW.value} must be less than --high={_HIGH.value}")
        out = Path(_OUT.value)
        for i, file in enumerate(files):
            _audit(file, out, samples, problems, blank=i > 0)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _audit(file: Path, out: Path, samples: int, problems: int, *, blank: bool) -> None:
    low, high = _LOW.value, _HIGH.value
    log = read_log(file, _COLUMN.value, _STEP_COLUMN.value)
    try:
        result = audit(
            (log.values - low) / (high - low), samples, problems,
            log.steps, _WINDOW.value, _MARGIN.value,
        )  # fmt: skip
    except ValueError as error:
        raise ValueError(f"{file}, {log.column!r}: {error}") from None
    text = describe(log, result)
    out.mkdir(parents=True, exist_ok=True)
    name = file.resolve().name
    (out / f"{name}.audit.png").write_bytes(image(figure(log, result, low, high), "png"))
    write_json(out / f"{name}.audit.json", {"text": text, "column": log.column, **to_json(result)})
    print(("\n" if blank else "") + text + f"\nPlot: {out / f'{name}.audit.png'}")


if __name__ == "__main__":
    app.run(main)
