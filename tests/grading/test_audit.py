"""Test the reward audit: it finds flips, its intervals are honest, and errors are one line."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest

from selfreg.data.problem_json import problem_to_json
from selfreg.grading.reliability import Regraded, Stored, audit, draw, noise, rate
from selfreg.run import rundir
from selfreg.run.records import FinishReason, Grade, Group, Outcome, Problem, Rollout, Tests

RIGHT = "def f(x):\n    return x + 1\n"
WRONG = "def f(x):\n    return x\n"
COIN = "import os\ndef f(x):\n    return x + os.urandom(1)[0] % 2\n"
SLOW = "def f(x):\n    while True: pass\n"
NEAR = "import time\ndef f(x):\n    while time.process_time() < 0.35: pass\n    return x + 1\n"
HACK = "def f(x):\n    if x == 1: return 2\n    return 0\n"

PROBLEMS = [
    Problem(f"p{i}", "", Tests(code="assert f(1) == 2"), entry_point="f", time_limit_s=0.5)
    for i in range(12)
]


def write_run(folder, graded, stream="train"):
    """Write a run folder with one file of completions, given as (program, stored grade) pairs."""
    source = folder / "problems.jsonl"
    source.write_text("".join(json.dumps(problem_to_json(p)) + "\n" for p in PROBLEMS))
    panels = {"train_count": 0, "panel_count": 4, "report_count": 4}
    config = {
        "problems": {"train": f"jsonl:{source}", "held_out": "", **panels},
        "grading": {"time_limit_scale": 1.0, "max_retries": 2},
    }
    rundir.write_json(folder / rundir.CONFIG, config)
    empty = np.zeros(0, np.int32)
    rollout = Rollout(empty, empty, np.zeros(0, np.float32), "", FinishReason.STOP)
    programs, grades = zip(*graded, strict=True)
    group = Group(PROBLEMS[0], (rollout,) * len(grades), programs, grades)
    rundir.write_completions(rundir.completions_file(folder, 0, 0, stream), [group])
    return folder


PASSED, FAILED = Grade(Outcome.PASSED, 0.01), Grade(Outcome.FAILED, 0.01)


def hits(row):
    return row["hits"], row["n"]


def test_sound_rewards_do_not_flip(tmp_path):
    run = write_run(
        tmp_path,
        [
            *[(RIGHT, PASSED)] * 5,
            (WRONG, FAILED),
            (SLOW, Grade(Outcome.TIMEOUT, 0.5)),
            (NEAR, Grade(Outcome.PASSED, 0.36)),
            (NEAR, PASSED),
            (HACK, PASSED),
            ("", Grade(Outcome.NO_CODE)),
        ],
    )
    result = audit(run, sample=99, repeats=3, workers=1)
    assert (result["completions"], result["programs"]) == (10, 5)
    for aspect in ("verdict", "reward"):
        assert hits(result["flips"][aspect]) == (0, 5)
        assert hits(result["noise"][aspect]) == (0, 10)
        # Two grades per program tell no more about five programs than one grade does.
        assert result["noise"][aspect]["low"] == 0
        assert result["noise"][aspect]["high"] == pytest.approx(1 - 0.025 ** (1 / 5))
    assert hits(result["pass_at_1"]) == (0, 99)
    assert result["outcomes"]["stored"] == {"passed": 3, "failed": 1, "timeout": 1}
    assert result["outcomes"]["again"] == {"passed": 9, "failed": 3, "timeout": 3}
    limits, shortcuts = result["limits"], result["shortcuts"]
    assert hits(limits["timeouts"]) == hits(limits["timeouts_again"]) == (1, 5)
    assert hits(limits["near"]) == hits(limits["near_again"]) == (1, 5)
    assert [each["program"] for each in limits["programs"]] == [NEAR]
    assert hits(shortcuts["passes"]) == (1, 3)
    assert [each["program"] for each in shortcuts["programs"]] == [HACK]
    assert shortcuts["patterns"]["hard_coded"]["programs"] == 1
    assert (shortcuts["pass_rate"], shortcuts["pass_rate_without"]) == (0.8, 0.7)


def test_coins_are_caught(tmp_path):
    graded = [(f"{program}# {i}", PASSED) for i in range(10) for program in (COIN, RIGHT)]
    result = audit(write_run(tmp_path, graded), sample=20, repeats=6, workers=1)
    # Each of the ten coins goes unnoticed with probability 2^-6.
    assert 7 <= result["flips"]["reward"]["hits"] <= 10
    assert all(COIN in each["program"] for each in result["flipped"])
    for aspect in ("verdict", "reward"):
        row = result["noise"][aspect]
        assert row["n"] == 100
        assert 0 < row["low"] < 0.25 < row["high"]  # half of the programs, half of the time
        assert row["low"] < row["rate"] < row["high"]
    assert result["pass_at_1"]["low"] > 0
    assert result["pass_at_1"]["high"] > 0.45


def test_a_stored_verdict_that_was_wrong_is_a_flip_and_no_noise(tmp_path):
    run = write_run(tmp_path, [(WRONG, PASSED), (RIGHT, PASSED), ("def f(x): 1 / 0", FAILED)])
    result = audit(run, sample=3, repeats=2, workers=1)
    assert hits(result["flips"]["reward"]) == (1, 3)
    assert hits(result["flips"]["verdict"]) == (2, 3)  # the exception earned no reward either way
    assert [each["what"] for each in result["flipped"]] == [
        "exception, exception",
        "failed, failed",
    ]
    assert hits(result["noise"]["verdict"]) == (0, 3)


def test_two_stored_verdicts_are_a_flip(tmp_path):
    run = write_run(tmp_path, [(RIGHT, PASSED), (RIGHT, FAILED)])
    assert hits(audit(run, sample=1, repeats=1, workers=1)["flips"]["reward"]) == (1, 1)


def test_what_was_not_run_is_not_called_a_rate(tmp_path):
    run = write_run(tmp_path, [(HACK, PASSED)])
    once = audit(run, sample=1, repeats=1, workers=1)
    assert once["noise"]["verdict"]["rate"] == once["noise"]["reward"]["rate"] == "not run"
    assert hits(once["flips"]["verdict"]) == (0, 1)
    never = audit(run, sample=0, repeats=5)
    assert never["flips"]["verdict"]["rate"] == never["pass_at_1"]["rate"] == "not run"
    assert never["limits"]["near_again"]["rate"] == "not run"
    assert hits(never["shortcuts"]["passes"]) == (1, 1)


def test_streams_are_kept_apart(tmp_path):
    write_run(tmp_path, [(RIGHT, PASSED)], "train")
    run = write_run(tmp_path, [(WRONG, FAILED)], "report")
    both = audit(run, sample=0, repeats=1)
    report = audit(run, sample=0, repeats=1, streams=["report"])
    assert (both["completions"], report["completions"]) == (2, 1)
    assert report["shortcuts"]["pass_rate"] == 0


# --- The sample and the intervals -----------------------------------------------------------------


def stored(program, count=1):
    return Stored(PROBLEMS[0], program, frozenset({Outcome.PASSED}), count, 0.0, "")


def test_the_sample_is_seeded_and_each_program_as_likely_as_any_other():
    programs = [stored(str(i), count=1 if i else 1000) for i in range(20)]
    assert draw(programs, 5, 0) == draw(programs, 5, 0) != draw(programs, 5, 1)
    assert len(set(draw(programs, 20, 0).programs)) == len(draw(programs, 99, 0).programs) == 20
    drawn = [draw(programs, 5, seed) for seed in range(400)]
    often = np.mean([programs[0] in each.programs for each in drawn])
    assert 0.19 < often < 0.31  # 5 of 20, whatever the number of samples
    of_completions = np.mean([c is programs[0] for each in drawn for c in each.completions])
    assert 0.96 < of_completions < 1  # 1000 of 1019


def test_the_interval_of_a_rate_holds_the_truth():
    generator = np.random.default_rng(0)
    for truth in (0.02, 0.3):
        draws = generator.binomial(100, truth, 300)
        held = np.mean([(r := rate(int(k), 100))["low"] <= truth <= r["high"] for k in draws])
        assert held >= 0.93
    assert rate(0, 200)["high"] == pytest.approx(1 - 0.025 ** (1 / 200))
    assert rate(0, 0)["rate"] == "not run"


def test_the_interval_of_the_noise_holds_the_truth_although_grades_cluster():
    generator = np.random.default_rng(0)
    coins, programs, repeats, truth = 0.1, 60, 6, 0.05
    held, naive = [], []
    for _ in range(200):
        is_coin = generator.random(programs) < coins
        fails = is_coin[:, None] & (generator.random((programs, repeats)) < 0.5)
        sample = [
            Regraded(stored(""), tuple(FAILED if fail else PASSED for fail in row)) for row in fails
        ]
        row, pooled = noise(sample, "reward"), rate(int(noise(sample, "reward")["hits"]), 300)
        assert row["rate"] == pytest.approx(pooled["rate"])
        held.append(row["low"] <= truth <= row["high"])
        naive.append(pooled["low"] <= truth <= pooled["high"])
    assert np.mean(held) >= 0.95
    assert np.mean(naive) < 0.9  # an interval for independent grades covers too seldom


# --- The command ----------------------------------------------------------------------------------


def run_command(*flags):
    command = [sys.executable, "-m", "selfreg.grading.audit", *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def test_the_command_writes_and_prints_what_it_found(tmp_path):
    run = write_run(tmp_path, [(WRONG, PASSED), (HACK, PASSED)])
    out = tmp_path / "elsewhere.json"
    done = run_command(f"--run={run}", f"--out={out}", "--sample=9", "--repeats=2", "--workers=1")
    assert (done.returncode, done.stderr) == (0, "")
    written = json.loads(out.read_text())
    assert hits(written["flips"]["reward"]) == (1, 2)
    assert written["flipped"][0]["program"] == WRONG
    rows = [line.split() for line in done.stdout.splitlines()]
    assert ["reward", "flips", "1", "2", "programs", "0.5000"] in [row[:6] for row in rows]
    assert ["suspicious", "passes", "1", "2"] in [row[:4] for row in rows]
    assert "hard_coded (1): " in done.stdout
    assert not (run / "audit.json").exists()


@pytest.mark.parametrize(
    ("case", "flags", "words"),
    [
        ("no run", [], "is not a run folder"),
        ("no flag", [], "--run is missing"),
        ("no programs", [], "holds no programs"),
        ("other problems", [], "problems that are not .*'p0' .1 in all"),
        ("not JSON", [], "Expecting value"),
        ("old config", [], "another version"),
        ("", ["--sample=-1"], "--sample must be at least 0, not -1"),
        ("", ["--repeats=0"], "--repeats must be at least 1, not 0"),
        ("", ["--streams=train,test"], "--streams has 'test'"),
        ("", ["--out=/nowhere/audit.json"], "no folder /nowhere"),
    ],
)
def test_mistakes_end_in_one_line(tmp_path, case, flags, words):
    run = tmp_path if case == "no run" else write_run(tmp_path, [(RIGHT, PASSED)])
    if case == "no programs":
        for file in (run / rundir.COMPLETIONS).iterdir():
            file.unlink()
    if case == "other problems":
        source = run / "problems.jsonl"
        source.write_text(source.read_text().replace('"p0"', '"q0"'))
    if case == "not JSON":
        (run / rundir.CONFIG).write_text("config")
    if case == "old config":
        rundir.write_json(run / rundir.CONFIG, {"problems": {}})
    done = run_command(*([] if case == "no flag" else [f"--run={run}"]), *flags)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert re.match(f"error: .*{words}", done.stderr)


def test_the_grader_itself_stays_light():
    script = (
        "import sys, selfreg.grading\n"
        "print(sys.modules.keys() & {'scipy', 'rich', 'pyarrow', 'selfreg.grading.audit'})"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
