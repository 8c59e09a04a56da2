"""Measure the seconds per step of the real job by stage, and count compilations after warm-up.

    python -m benchmarks.step --config=configs/tiny.py
    python -m benchmarks.step --config=configs/smollm2.py --steps=4

This runs one campaign of a config in a temporary folder. All other settings are the config's.
"""

import os
import tempfile
from pathlib import Path

import numpy as np
from absl import app, flags, logging
from ml_collections import config_flags

from benchmarks.table import show
from selfreg.loop.chain import run_chain
from selfreg.policy import xla
from selfreg.run import rundir
from selfreg.run.validate import resolve

_CONFIG = config_flags.DEFINE_config_file("config", "configs/tiny.py", "The job.")
_STEPS = flags.DEFINE_integer("steps", 40, "Number of updates.")
STAGES = ("sample", "grade", "update", "eval", "checkpoint", "sync")
WARM_UP_STEPS = 2


def main(_: list[str]) -> None:
    """Run and print."""
    logging.set_verbosity(logging.ERROR)
    xla.set_up()
    config = _CONFIG.value
    config.campaigns, config.campaign_budget_steps = 1, _STEPS.value
    with tempfile.TemporaryDirectory() as folder:
        run_chain(resolve(config), Path(folder))
        records = rundir.read_records(Path(folder))[WARM_UP_STEPS:-1]
    seconds = {
        stage: np.array([r.metrics.get(f"time/{stage}_s", 0.0) for r in records])
        for stage in STAGES
    }
    whole = np.array([r.metrics["time/step_s"] for r in records])
    rows = [
        _row(stage, values, whole.sum(), seconds["eval"].sum())
        for stage, values in (seconds | {"step": whole}).items()
    ]
    compiled = int(sum(r.metrics["compiles"] for r in records))
    show(
        f"{config.name}: seconds, {len(records)} steps after {WARM_UP_STEPS} of warm-up",
        ["stage", "mean per step", "median when it ran", "times", "share", "share without eval"],
        rows,
        f"{compiled} compilations after warm-up. "
        f"A panel every {config.evaluation.every_steps} steps.",
    )


def _row(stage: str, values: np.ndarray, whole: float, evals: float) -> list[str]:
    times = np.count_nonzero(values)
    return [
        stage,
        f"{values.mean():.4f}",
        f"{np.median(values[values > 0]):.4f}" if times else "-",
        str(times),
        f"{values.sum() / whole:.1%}",
        "-" if stage in ("eval", "step") else f"{values.sum() / (whole - evals):.1%}",
    ]


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    app.run(main)
