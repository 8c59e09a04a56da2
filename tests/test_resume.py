"""A run that is killed anywhere and started again equals, bit for bit, a run that never stopped."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pyarrow.parquet as pq
import pytest

from selfreg.run import rundir

ROOT = Path(__file__).parent.parent
FLAGS = (
    f"--config={ROOT}/configs/tiny.py --config.condition=ES --config.campaigns=2 "
    "--config.campaign_budget_steps=5 --config.problems.panel_count=8 "
    "--config.problems.report_count=8 --config.evaluation.every_steps=2 "
    "--config.evaluation.panel_samples=2 --config.evaluation.report_samples=2 "
    "--config.checkpoint.every_steps=3 --config.rollout.max_new_tokens=48 "
    "--config.rollout.group_size=8 --config.learn.row_tokens=(48,) --config.optimizer.lr=1e-3 "
    "--config.grading.validate=False"
).split()
# Every kind of point, in the order in which one chain reaches them. Each start resumes the last.
POINTS = [
    "sampling:1", "grading:3", "saving:1", "updated:2", "recording:3", "ending:1", "between:1",
    "sampling:3",
]  # fmt: skip


def start(*runs: tuple[str, Path]) -> list[int]:
    """Start runs, each to its point and in its folder, and return their exit codes."""
    command = [sys.executable, str(ROOT / "tests/killed_run.py"), *FLAGS]
    # Use as many threads as a user's run, because more threads could add in another order.
    environment = {key: value for key, value in os.environ.items() if key != "NPROC"}
    run = subprocess.run(
        command, env=environment | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        input="\n".join(f"{point} --workdir={folder}" for point, folder in runs), check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    return list(map(int, run.stdout.split()))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Make the same run twice: uninterrupted, and killed eight times."""
    folder = tmp_path_factory.mktemp("runs")
    killed = [(point, folder / "killed") for point in (*POINTS, "none:0")]
    codes = start(("none:0", folder / "whole"), *killed)
    assert codes == [0] + [-signal.SIGKILL] * len(POINTS) + [0]
    return folder / "whole", folder / "killed"


def records(folder):
    """Return step records without timings."""
    return [
        (
            r.campaign,
            r.step,
            {
                k: v
                for k, v in r.metrics.items()
                if not k.startswith(("time/", "compiles", "grader/program_"))
            },
        )
        for r in rundir.read_records(folder)
    ]


def test_metrics_are_bit_identical(runs):
    whole, killed = map(records, runs)
    assert len(whole) > 10
    assert killed == whole


def test_summaries_and_decisions_are_identical(runs):
    whole, killed = (rundir.read_lines(folder / rundir.CAMPAIGNS) for folder in runs)
    assert len(whole) == 2
    assert killed == whole


def test_weights_and_moments_are_bit_identical(runs):
    end = rundir.read_summaries(runs[0])[-1].end_step
    trees = []
    for folder in runs:
        place = folder.absolute() / "checkpoints" / "campaign_01" / str(end)
        with ocp.StandardCheckpointer() as reader:
            trees.append([reader.restore(place / item) for item in ("params", "moments")])
    import jax

    jax.tree.map(np.testing.assert_array_equal, *trees)


def test_completions_are_identical(runs):
    files = [sorted(p.name for p in (folder / rundir.COMPLETIONS).iterdir()) for folder in runs]
    assert files[0] == files[1]
    for name in files[0]:
        tables = [
            pq.read_table(f / rundir.COMPLETIONS / name).drop(["grade_time_s", "grade_peak_mb"])
            for f in runs
        ]
        assert tables[0].equals(tables[1]), name


def test_start_peak_and_end_are_on_disk(runs):
    for summary in rundir.read_summaries(runs[1]):
        place = runs[1] / "checkpoints" / f"campaign_{summary.campaign:02d}"
        steps = {int(p.name) for p in place.iterdir() if p.name.isdigit()}
        assert steps == {0, summary.peak_step, summary.end_step}


def test_every_start_is_in_the_manifest(runs):
    manifest = json.loads((runs[1] / rundir.MANIFEST).read_text())
    assert len(manifest["starts"]) == len(POINTS) + 1
