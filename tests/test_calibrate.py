"""Calibrate from stored runs, and try a calibration on them."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from selfreg.cli.calibrate import check
from selfreg.cli.calibrate.pool import read_pool
from selfreg.control.find import find_calibration
from selfreg.run import rundir
from selfreg.run.config import default
from selfreg.run.records import PanelScore, Plan, StepRecord
from selfreg.run.validate import resolve

ROOT = Path(__file__).parent.parent


def write_run(folder, campaigns, **changes):
    """Write a run folder with these metrics by campaign and step, and a panel of four problems."""
    config = default()
    config.update_from_flattened_dict(changes)
    folder.mkdir(parents=True)
    rundir.write_json(folder / rundir.CONFIG, resolve(config).to_dict())
    rundir.keep_lines(
        folder / rundir.METRICS,
        [StepRecord(c, s, m) for c, steps in enumerate(campaigns) for s, m in enumerate(steps)],
    )
    score = PanelScore(("a", "b"), np.array([0.5, 0.5]), 2)
    rundir.keep_lines(
        folder / rundir.CAMPAIGNS,
        [
            rundir.CampaignSummary(
                c, Plan(None, len(steps) - 1, 1e-3, 0.0), 0, len(steps) - 1,
                dict.fromkeys(("start", "peak", "end"), score), None, None,
            )
            for c, steps in enumerate(campaigns)
        ],
    )  # fmt: skip
    file = rundir.completions_file(folder, 0, 0, "panel")
    file.parent.mkdir()
    rewards = {"problem_id": list("aabbccdd"), "reward": [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0]}
    pq.write_table(pa.table(rewards), file)


def still(rng, steps, moved=1e-11):
    """Make a campaign of updates in which nothing changes, and its last measurement."""
    panel = {"panel_pass_at_1": 0.5, "panel_pass_at_1_se": 0.2}
    return [
        {
            "loss": 0.0, "entropy": float(np.exp(rng.normal())), "update_to_weight_ratio": moved,
            **(panel if step % 4 == 0 else {}),
        }
        for step in range(steps)
    ] + [panel]  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("runs"), np.random.default_rng(0)
    for seed in range(2):
        campaigns = [still(rng, 24), still(rng, 24)]
        write_run(folder / f"aa/seed_{seed}", campaigns, **{"evaluation.every_steps": 4})
    falling = [
        {"loss": 0.0, "panel_pass_at_1": value, "panel_pass_at_1_se": 0.02}
        for value in [0.5, 0.6, 0.8, *[0.8] * 7, 0.7, 0.3, 0.1, 0.1, 0.1, 0.1, 0.1]
    ]
    write_run(folder / "learning/seed_7", [falling])
    return folder


def command(folder, *flags):
    return subprocess.run(
        [sys.executable, "-m", "selfreg.calibrate", *flags], cwd=folder, capture_output=True,
        text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False,
    )  # fmt: skip


def test_a_pool_holds_the_updates_and_the_panels_of_every_seed(runs):
    pool, model = read_pool(runs / "aa", None)
    assert model == "tiny"
    assert [step.step for step in pool.steps] == [*range(24)] * 4
    assert (pool.panel_every, pool.panel_samples) == (4, 4)
    # The panels of the two seeds are equal: 2, 1, 0 and 1 of 2 passed.
    np.testing.assert_array_equal(pool.passed, [4, 2, 0, 2])
    np.testing.assert_array_equal(pool.drawn, [4, 4, 4, 4])
    assert read_pool(runs / "aa", 3)[0].panel_every == 3


def test_the_command_writes_a_calibration_that_keeps_its_promise(runs):
    done = command(runs, "--runs=aa", "--out=file.json", "--budgets=16", "--traces=199")
    assert done.returncode == 0, done.stderr
    assert "file.json: 96 steps of stationary runs" in done.stdout
    made = find_calibration(str(runs / "file.json"))
    assert set(made["budgets"]["16"]["units"]) == {
        "entropy",
        "update_to_weight_ratio",
        "panel_pass_at_1",
    }
    base = check.predictor_base(made, 0.05)
    table = check.false_alarms(base, read_pool(runs / "aa", None)[0], [16], seed=3)
    (rate,) = table.columns[2].cells
    assert 0.01 < float(rate) < 0.11  # n = 199 maxima and 1,000 campaigns


def test_lead_times_by_hand(runs):
    """A drop of .1 at step 10, where two standard errors are .057, and below .4 at step 11."""
    fit = {"units": {"panel_pass_at_1": 2.0}, "maxima": [1.0] * 19}
    base = check.predictor_base({"model": "tiny", "budgets": {"40": fit}}, 0.05)
    table, tallies = check.lead_times(base, runs / "learning")
    cells = [next(iter(column.cells)) for column in table.columns]
    assert cells == ["seed_7/0", "2", "10", "11", "10", "panel_pass_at_1", "12"]
    half = "fires in 1 of 1 campaigns that fall below half"
    assert tallies[0] == f"predictor: {half}, +1.0 steps before that on average; in 0 of 0 others"
    assert tallies[1] == f"early stop: {half}, -1.0 steps before that on average; in 0 of 0 others"
    Console(quiet=True).print(table)


def test_a_run_that_learns_is_no_calibration(runs, tmp_path):
    write_run(tmp_path / "moving", [still(np.random.default_rng(0), 24, moved=1e-3)])
    with pytest.raises(ValueError, match=r"not stationary: campaign 0 moved its weights by 0.024"):
        read_pool(tmp_path, 4)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "name either --out=FILE.json to calibrate, or --check"),
        (["--out=x.json"], "--runs is missing"),
        (["--check=tiny"], "--check needs --runs"),
        (["--check=x.json", "--runs=aa"], "is no calibration"),
        (["--out=x.json", "--runs=aa", "--indicators=luck"], "--indicators=luck: must be among"),
    ],
)
def test_a_mistake_ends_in_one_line(flags, words, runs):
    done = command(runs, *flags)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
