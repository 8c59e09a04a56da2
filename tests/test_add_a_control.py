"""The example in docs/add_a_control.md, run as printed there."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from selfreg.run import rundir

ROOT = Path(__file__).parent.parent
DOC = (ROOT / "docs/add_a_control.md").read_text()
SIZES = {
    "campaign_budget_steps": 6, "evaluation.every_steps": 1, "problems.panel_count": 4,
    "problems.report_count": 4, "evaluation.panel_samples": 2, "evaluation.report_samples": 2,
    "rollout.max_new_tokens": 48, "rollout.group_size": 4, "learn.row_tokens": "(48,)",
    "grading.validate": False, "problems.train": "procedural:main", "problems.held_out": "",
}  # fmt: skip
SMALL = [f"--config.{name}={value}" for name, value in SIZES.items()]


def run(*command, cwd):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=cwd, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Write the doc's three files to an empty folder, and run them there."""
    folder = tmp_path_factory.mktemp("example")
    files = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", DOC, re.DOTALL))
    assert sorted(files) == ["careful.py", "cautious.py", "plateau.py"]
    for name, text in files.items():
        (folder / name).write_text(text)
    command = re.search(r"python -m (selfreg\.main --config=careful\.py .*)", DOC).group(1)
    run(*command.split(), *SMALL, cwd=folder)
    return folder


def test_the_example_controls_a_real_chain(folder):
    first, second = rundir.read_summaries(folder / "runs/careful")
    # Apply its rules again, separately, to the measurements.
    values = {0: [], 1: []}
    for record in rundir.read_records(folder / "runs/careful"):
        values[record.campaign].append(record.metrics["panel_pass_at_1"])
    for summary in (first, second):
        measured = values[summary.campaign]
        peaks = [max(measured[: step + 1]) for step in range(len(measured))]
        since = [step - measured.index(peak) for step, peak in enumerate(peaks)]
        stops = [step + 1 for step, count in enumerate(since[:-1]) if count == 3]
        assert summary.end_step == min([*stops, 6])
    start, peak, end = values[0][0], max(values[0]), values[0][-1]
    halved = peak > start and end < (start + peak) / 2
    assert second.plan.lr == pytest.approx(4e-4 if halved else 8e-4)
    assert second.plan.start == rundir.Checkpoint(0, first.peak_step)


def test_a_replay_of_the_example_is_what_it_did(folder):
    out = run(
        "selfreg.replay", "--run=runs/careful", "--within=plateau.py", "--between=cautious.py",
        "--out=decisions.json", cwd=folder,
    )  # fmt: skip
    assert out.count("the same") == 2
    assert "not what would have happened" in " ".join(out.split())
    told = json.loads((folder / "decisions.json").read_text())
    summaries = rundir.read_summaries(folder / "runs/careful")
    assert [each["plan"]["start"] for each in told["decided"]] == [
        None, {"campaign": 0, "step": summaries[0].peak_step},
    ]  # fmt: skip
    for each, summary in zip(told["decided"], summaries, strict=True):
        stop = [{"step": summary.end_step - 1, "verdict": "stop"}]
        assert each["decisions"] == (stop if summary.end_step < 6 else [])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "--run is missing"),
        (["--run=nowhere"], "nowhere is not a run folder"),
        (["--run=runs/careful", "--condition=A9"], "--condition=A9: must be one of A0, A1"),
        (["--run=runs/careful", "--within=mine"], "config.within='mine': name a .py file, or one"),
        (["--run=runs/careful", "--between=none.py"], "there is no such file"),
    ],
)
def test_a_mistake_ends_in_one_line(flags, words, folder):
    done = subprocess.run(
        [sys.executable, "-m", "selfreg.replay", *flags], cwd=folder, capture_output=True,
        text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
