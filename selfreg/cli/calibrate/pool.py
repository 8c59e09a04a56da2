"""Read the pool of stationary runs from which stationary campaigns are drawn."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from selfreg.analysis.load import Run, find_runs, load_run
from selfreg.control import calibrate
from selfreg.run import rundir
from selfreg.run.records import StepRecord, Trace

# A campaign that changes the weights by more than this, relative to their norm, is not stationary.
MOST_MOVED = 1e-4


def read_pool(folder: Path, panel_every: int | None) -> tuple[calibrate.Pool, str]:
    """Read the steps and panels of stationary runs, and their model.path.

    Raises:
      ValueError: There are no runs, they have different models, their policy moved, or they did not
        keep their panels.
    """
    runs = [load_run(each) for each in find_runs(folder)]
    models = {run.config["model"]["path"] for run in runs}
    if len(models) > 1:
        raise ValueError(f"--runs={folder} holds runs of several models: {', '.join(models)}")
    every = panel_every or runs[0].config["evaluation"]["every_steps"]
    steps = [step for run in runs for trace in run.traces for step in _still(run, trace)]
    if not steps:
        raise ValueError(f"--runs={folder} holds no update")
    passed, drawn = _panel_counts(runs)
    samples = runs[0].config["evaluation"]["panel_samples"]
    return calibrate.Pool(tuple(steps), passed, drawn, samples, every), models.pop()


def _still(run: Run, trace: Trace) -> list[StepRecord]:
    """Return the steps of a campaign that made an update. Refuse a policy that moved."""
    steps = [record for record in trace.records if "loss" in record.metrics]
    moved = sum(record.metrics["update_to_weight_ratio"] for record in steps)
    if moved > MOST_MOVED:
        raise ValueError(
            f"{run.folder} is not stationary: campaign {trace.campaign} moved its weights "
            f"by {moved:.2g} of their norm; {calibrate.HOW}"
        )
    return steps


def _panel_counts(runs: Sequence[Run]) -> tuple[np.ndarray, np.ndarray]:
    """Count the passed and the drawn completions of each panel problem.

    It reads the first panel of each run, because each run draws that panel with its own seeds.

    Returns:
      Passed and drawn, int [panel problems].
    """
    passed, drawn = Counter[str](), Counter[str]()
    for run in runs:
        file = rundir.completions_file(run.folder, 0, 0, "panel")
        if not file.is_file():
            raise ValueError(f"{run.folder} did not keep its first panel: {file} is not there")
        for row in pq.read_table(file, columns=["problem_id", "reward"]).to_pylist():
            passed[row["problem_id"]] += int(row["reward"])
            drawn[row["problem_id"]] += 1
    return np.array([passed[name] for name in drawn]), np.array([*drawn.values()])
