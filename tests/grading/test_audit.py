"""The reward audit: flips are found, rates have honest intervals, mistakes are one line."""

import json
import subprocess
import sys

import numpy as np
import pytest

from selfreg import rundir
from selfreg.data.problem_json import problem_to_json
from selfreg.grading.audit import audit, rate
from selfreg.records import FinishReason, Grade, Group, Outcome, Problem, Rollout, Tests

RIGHT = "def f(x):\n    return x + 1\n"
WRONG = "def f(x):\n    return x\n"
COIN = "import os\ndef f(x):\n    return x + os.urandom(1)[0] % 2\n"
SLOW = "def f(x):\n    while True: pass\n"
NEAR = "import time\ndef f(x):\n    while time.process_time() < 0.35: pass\n    return x + 1\n"
HACK = "def f(x):\n    if x == 1: return 2\n    return 0\n"


def write_run(folder, graded):
    """A run folder with one file of completions of one problem."""
    problems = [
        Problem(f"p{i}", "", Tests(code="assert f(1) == 2"), entry_point="f", time_limit_s=0.5)
        for i in range(12)
    ]
    source = folder / "problems.jsonl"
    source.write_text("".join(json.dumps(problem_to_json(p)) + "\n" for p in problems))
    rundir.write_json(
        folder / rundir.CONFIG,
        {
            "problems": {
                "train": f"jsonl:{source}",
                "held_out": "",
                "train_count": 0,
                "panel_count": 4,
                "report_count": 4,
            },
            "grading": {"time_limit_scale": 1.0, "max_retries": 2},
        },
    )
    empty = np.zeros(0, np.int32)
    rollout = Rollout(empty, empty, np.zeros(0, np.float32), "", FinishReason.STOP)
    programs, outcomes = zip(*graded, strict=True)
    grades = tuple(Grade(outcome) for outcome in outcomes)
    group = Group(problems[0], (rollout,) * len(grades), programs, grades)
    rundir.write_completions(rundir.completions_file(folder, 0, 0, "train"), [group])
    return folder


def test_sound_rewards_do_not_flip(tmp_path):
    run = write_run(
        tmp_path,
        [
            (RIGHT, Outcome.PASSED),
            (RIGHT, Outcome.PASSED),
            (WRONG, Outcome.FAILED),
            (SLOW, Outcome.TIMEOUT),
            (NEAR, Outcome.PASSED),
            (HACK, Outcome.PASSED),
            ("", Outcome.NO_CODE),
        ],
    )
    result = audit(run, sample=0, repeats=3, seed=0, workers=1)
    assert (result["completions"], result["programs"]) == (6, 5)
    flips = result["reward_flips"]
    assert (flips["hits"], flips["n"], flips["low"]) == (0, 5, 0.0)
    assert 0.4 < flips["high"] < 0.6  # five programs cannot say more
    assert result["timeouts"]["hits"] == 1
    assert [example["program"] for example in result["slow"]] == [NEAR]
    assert result["patterns"] == {"hard_coded": 1}
    assert (result["suspicious_passes"]["hits"], result["suspicious_passes"]["n"]) == (1, 3)
    assert result["outcomes"] == {"passed": 9, "failed": 3, "timeout": 3}
    assert json.loads((run / "audit.json").read_text())["reward_flips"] == flips


def test_a_coin_is_caught(tmp_path):
    run = write_run(tmp_path, [(COIN, Outcome.PASSED), (RIGHT, Outcome.PASSED)])
    result = audit(run, sample=0, repeats=30, seed=0, workers=1)
    assert result["reward_flips"]["hits"] == 1
    assert [example["program"] for example in result["flipped"]] == [COIN]
    assert 5 < result["outcomes"]["failed"] < 25


def test_a_stored_verdict_that_was_wrong_is_a_flip(tmp_path):
    run = write_run(tmp_path, [(WRONG, Outcome.PASSED), (RIGHT, Outcome.PASSED)])
    result = audit(run, sample=0, repeats=1, seed=0, workers=1)
    assert [example["program"] for example in result["flipped"]] == [WRONG]


def test_the_sample_is_seeded(tmp_path):
    graded = [(f"{RIGHT}# {i}", Outcome.FAILED) for i in range(20)]
    run = write_run(tmp_path, graded)
    drawn = [
        [e["program"] for e in audit(run, sample=5, repeats=1, seed=seed, workers=1)["flipped"]]
        for seed in (0, 0, 1)
    ]
    assert len(drawn[0]) == 5
    assert drawn[0] == drawn[1] != drawn[2]


def test_rates_cover_the_truth():
    generator = np.random.default_rng(0)
    for truth in (0.02, 0.3):
        draws = generator.binomial(100, truth, 300)
        held = np.mean([(r := rate(int(k), 100))["low"] <= truth <= r["high"] for k in draws])
        assert held >= 0.93
    assert rate(0, 0)["rate"] == "not run"


@pytest.mark.parametrize("case", ["no folder", "no programs", "other problems"])
def test_mistakes_end_in_one_line(tmp_path, case):
    run = tmp_path
    if case != "no folder":
        run = write_run(tmp_path, [(RIGHT, Outcome.PASSED)])
    if case == "no programs":
        for file in (run / rundir.COMPLETIONS).iterdir():
            file.unlink()
    if case == "other problems":
        source = run / "problems.jsonl"
        source.write_text(source.read_text().replace('"p0"', '"q0"'))
    command = [sys.executable, "-m", "selfreg.grading.audit", f"--run={run}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2
    words = {
        "no folder": "is no run",
        "no programs": "no stored programs",
        "other problems": "'p0'",
    }
    assert done.stderr.startswith("error: ")
    assert words[case] in done.stderr
    assert len(done.stderr.splitlines()) == 1
