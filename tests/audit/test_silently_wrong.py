"""Regression tests for errors that once went unnoticed."""

import math

import numpy as np
import pytest
from tensorboardX import SummaryWriter

from tests.audit.made import lines, rates

COUNTS = ("--samples_per_step=64", "--problems_per_step=8")


def write(file, rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(lines(rows))
    return file


def rows_of(values, start=0, key="reward", **more):
    return [{"step": start + i, key: float(v), **more} for i, v in enumerate(values)]


@pytest.mark.parametrize(
    ("values", "broken"),
    [
        ([0.625] * 12 + [math.nan] * 8, "reward is nan from step 12"),
        (list(rates(np.linspace(0.2, 0.8, 40))) + [math.nan] * 5, "reward is nan from step 40"),
        ([0.5, 0.625] * 10 + [math.inf] * 3, "reward is inf from step 20"),
        ([0.5, 0.625] * 10 + [math.nan], "reward is nan from step 20"),
    ],
)
def test_a_run_that_ends_in_nan_failed(tmp_path, command, values, broken):
    done = command(write(tmp_path / "run.jsonl", rows_of(values)), *COUNTS)
    assert "FAILED" in done.stdout.splitlines()[0]
    assert broken in done.stdout.splitlines()[0]
    (record,) = command.records().values()
    assert record["finding"] == "failed"


def test_a_run_whose_loss_ends_in_nan_failed(tmp_path, command):
    rows = rows_of([0.5, 0.625] * 10)
    for i, row in enumerate(rows):
        row["loss"] = math.nan if i >= 15 else 0.1
    done = command(write(tmp_path / "run.jsonl", rows), *COUNTS)
    assert "FAILED: loss is nan from step 15 to the end" in done.stdout.splitlines()[0]


def test_nan_at_unmeasured_steps_is_not_a_failure(tmp_path, command):
    values = [v for x in rates(np.full(30, 0.5)) for v in (x, math.nan)]
    done = command(write(tmp_path / "run.jsonl", rows_of(values)), *COUNTS)
    assert "FAILED" not in done.stdout
    assert "30 nan or infinite" in done.stdout


def events(folder, values, start, suffix, wall=0.0):
    with SummaryWriter(str(folder), filename_suffix=suffix) as writer:
        for i, value in enumerate(values):
            writer.add_scalar("train/reward", float(value), start + i, walltime=1e9 + wall + i)


def test_event_files_that_both_start_at_step_1_are_two_runs(tmp_path, command):
    up, down = rates(np.linspace(0.1, 0.9, 40)), rates(np.linspace(0.9, 0.1, 40))
    events(tmp_path / "tb", up, 1, ".a")
    events(tmp_path / "tb", down, 1, ".b", wall=1000)
    done = command(tmp_path / "tb", *COUNTS)
    assert done.returncode == 0, done.stderr
    found = {r["run"]: r["finding"] for r in command.records().values()}
    assert found == {"part 1": "improved", "part 2": "collapsed"}
    assert "the step starts over" in done.stdout


def test_a_folder_of_runs_is_judged_run_by_run(tmp_path, command):
    for name in ("a", "b"):
        events(tmp_path / "logs" / name, rates(np.full(20, 0.5)), 1, "")
    command(tmp_path / "logs", *COUNTS)
    assert len(command.records()) == 2


def test_a_restart_whose_steps_continue_is_joined_and_reported(tmp_path, command):
    events(tmp_path / "tb", rates(np.full(30, 0.5)), 1, ".a")
    events(tmp_path / "tb", rates(np.full(20, 0.5), seed=1), 21, ".b", wall=1000)
    done = command(tmp_path / "tb", *COUNTS)
    assert "40 values of 'train/reward' at steps 1 to 40" in done.stdout
    assert "a restart at step 21 replaces 10 rows" in done.stdout


def test_many_restarts_are_not_one_long_run(tmp_path, command):
    for i in range(5):
        events(tmp_path / "tb", rates(np.full(12, 0.5), seed=i), 1, f".{i}", wall=1000 * i)
    command(tmp_path / "tb", *COUNTS)
    assert [r["values"] for r in command.records().values()] == [12] * 5


def test_files_of_one_name_keep_their_pictures_apart(tmp_path, command):
    for name, level in (("a", 0.25), ("b", 0.75)):
        write(tmp_path / name / "log.jsonl", rows_of(rates(np.full(20, level))))
    command(tmp_path / "a" / "log.jsonl", tmp_path / "b" / "log.jsonl", *COUNTS)
    assert len(command.records()) == 2
    assert len(list(command.out.glob("*.png"))) == 2
    # Another command leaves these files alone; the same command overwrites its own.
    command(tmp_path / "b" / "log.jsonl", *COUNTS)
    assert len(command.records()) == 2


def test_four_epochs_whose_steps_start_over_are_one_run(tmp_path, command):
    values = rates(np.full(40, 0.5))
    rows = [{"epoch": i // 10, "step": i % 10, "reward": float(v)} for i, v in enumerate(values)]
    done = command(write(tmp_path / "run.jsonl", rows), *COUNTS)
    (record,) = command.records().values()
    assert record["values"] == 40
    assert "the epoch goes on" in done.stdout


def test_four_runs_in_one_file_without_an_epoch_are_four(tmp_path, command):
    values = rates(np.full(40, 0.5))
    write(tmp_path / "run.jsonl", [{"step": i % 10, "reward": v} for i, v in enumerate(values)])
    command(tmp_path / "run.jsonl", *COUNTS)
    assert [r["values"] for r in command.records().values()] == [10] * 4


@pytest.mark.parametrize("marked", ["split", "keys"])
def test_evaluations_under_the_same_name_are_separated(tmp_path, command, marked):
    rows = []
    for i, value in enumerate(rates(np.full(20, 0.25))):
        train, evaluation = ({"split": "train"}, {"split": "eval"})
        if marked == "keys":
            train, evaluation = {"loss": 0.1}, {"eval_runtime": 3.0}
        rows += [{"step": i, "reward": value, **train}, {"step": i, "reward": 0.75, **evaluation}]
    command(write(tmp_path / "run.jsonl", rows), *COUNTS)
    levels = sorted(round(r["level"], 1) for r in command.records().values())
    assert levels == [0.2, 0.8]


TRL_LINE = "{{'loss': '0.01', 'reward': '{:.4g}', 'epoch': '{:.4g}'}}\n"


def test_the_progress_bar_counts_the_steps_of_a_console(tmp_path, command):
    file = tmp_path / "train.log"
    values = rates(np.full(30, 0.5))
    file.write_text(
        "".join(
            f"\r {i}%|#   | {10 * (i + 1)}/300 [00:05<02:36,  5.39s/it]\n"
            + TRL_LINE.format(v, (i + 1) / 30)
            for i, v in enumerate(values)
        )
    )
    done = command(file, *COUNTS)
    assert "at steps 10 to 300 (the progress bar)" in done.stdout


def test_a_restart_appended_to_a_console_counts_once(tmp_path, command):
    file = tmp_path / "train.log"
    values = rates(np.full(30, 0.5))

    def part(first, last):
        return "".join(
            f"\r {i}%|#   | {i}/30 [00:05<02:36,  5.39s/it]\n"
            + TRL_LINE.format(values[i - 1], i / 30)
            for i in range(first, last + 1)
        )

    file.write_text(part(1, 20) + part(11, 30))
    done = command(file, *COUNTS)
    assert "30 values of 'reward' at steps 1 to 30" in done.stdout
    assert "a restart at step 11 replaces 10 rows" in done.stdout


@pytest.mark.parametrize(
    ("steps", "last"),
    [
        (lambda i: {"global_step/max_steps": f"{5 * i}/200"}, 200),
        (lambda i: {"current_steps": 5 * i, "total_steps": 200}, 200),
        (lambda i: {"iteration": 5 * i}, 200),
    ],
)
def test_real_steps_are_not_counted_by_rows(tmp_path, command, steps, last):
    rows = [{**steps(i + 1), "reward": v} for i, v in enumerate(rates(np.full(40, 0.5)))]
    done = command(write(tmp_path / "run.jsonl", rows), *COUNTS)
    assert f"steps 5 to {last}" in done.stdout


def test_a_sum_of_rewards_is_not_judged_as_if_binary(tmp_path, command):
    right, form = rates(np.full(40, 0.4)), rates(np.full(40, 0.7), seed=1)
    rows = [
        {"step": i, "reward": a + 0.5 * b, "rewards/right/mean": a, "rewards/form/mean": b}
        for i, (a, b) in enumerate(zip(right, form, strict=True))
    ]
    done = command(write(tmp_path / "run.jsonl", rows), *COUNTS, "--low=0", "--high=1.5")
    (record,) = command.records().values()
    assert record["noise"]["model"] == "measured"
    assert record["counts"]["samples"] is None
    assert "rewards/right/mean" in done.stdout
    assert "--column" in done.stdout


def test_rewards_of_any_range_are_judged_in_their_own_unit(tmp_path, command):
    rng = np.random.default_rng(0)
    levels = np.concatenate([np.linspace(-200, 300, 120), np.linspace(300, -150, 80)])
    done = command(write(tmp_path / "run.jsonl", rows_of(levels + rng.normal(0, 15, 200))))
    assert done.returncode == 0, done.stderr
    (record,) = command.records().values()
    assert record["finding"] == "collapsed"
    assert record["noise"]["model"] == "measured"
    assert record["noise"]["sd"] == pytest.approx(15, rel=0.3)
    assert record["shape"]["peak"] > 250
    assert "pass@1" not in done.stdout


def test_overdispersion_is_detected_used_and_reported(tmp_path, command):
    rng = np.random.default_rng(3)
    levels = np.clip(0.5 + rng.normal(0, 0.08, 60), 0, 1)
    values = rates(levels, 1024)
    done = command(
        write(tmp_path / "run.jsonl", rows_of(values)),
        "--samples_per_step=1024", "--problems_per_step=1024",
    )  # fmt: skip
    (record,) = command.records().values()
    assert record["noise"]["overdispersed"]
    assert record["noise"]["model"] == "measured"
    # The null is drawn with the reported noise.
    assert record["gap"]["null_mean"] > record["noise"]["sd"] * 0.5
    assert "OVERDISPERSED" in done.stdout


def test_a_run_is_shown_with_its_own_indicators_only(tmp_path, command):
    file = tmp_path / "export.csv"
    values = zip(rates(np.full(20, 0.5)), rates(np.full(20, 0.5), seed=1), strict=True)
    file.write_text(
        '"Step","a - train/reward","a - train/kl","b - train/reward"\n'
        + "".join(f'"{i}","{v}","7.25","{w}"\n' for i, (v, w) in enumerate(values))
    )
    done = command(file, "--column=b - train/reward", *COUNTS)
    assert done.returncode == 0, done.stderr
    assert "7.25" not in done.stdout
    assert len(command.records()) == 1
    assert "KL (train/kl): start 7.25" in command(file, "--column=a - train/reward", *COUNTS).stdout
