import json
import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import t as student

from selfreg.guard.compare import p_above
from selfreg.run import rundir
from selfreg.run.records import Checkpoint, PanelScore, Plan, StepRecord

PROBLEMS = 40


def panel(name: str, level: float) -> PanelScore:
    """Make a panel with pass@1 of `level`, whose problems differ in rate and in change with it."""
    weights = 0.5 + np.arange(PROBLEMS) / (PROBLEMS - 1)
    return PanelScore(tuple(f"{name}/{i}" for i in range(PROBLEMS)), weights * level, 8)


def write(folder, campaigns, kept, capabilities=()):
    """Write a run whose campaign c has campaigns[c] = {place: level} at steps 0, 3 and 5."""
    folder.mkdir()
    config = {"campaigns": len(campaigns), "control_metric": "panel_pass_at_1"}
    rundir.write_json(folder / rundir.CONFIG, config)
    for number, levels in enumerate(campaigns):
        for step, place in ((0, "start"), (3, "peak"), (5, "end")):
            record = StepRecord(number, step, {"panel_pass_at_1": levels[place]})
            rundir.append_line(folder / rundir.METRICS, record)
    for number, levels in enumerate(campaigns):
        scores = {place: panel("report", level) for place, level in levels.items()}
        others = {
            name: {p: panel(name, level + shift.get(p, 0)) for p, level in levels.items()}
            for name, shift in capabilities
        }
        rundir.append_line(
            folder / rundir.CAMPAIGNS,
            rundir.CampaignSummary(
                number, Plan(None, 5, 1e-3, 0.0), 3, 5, scores, kept[number], {}, others
            ),
        )
    return folder


def run(*arguments):
    command = [sys.executable, "-m", "selfreg.promote", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout) if done.stdout else None, done.stderr


RISE_AND_FALL = {"start": 0.3, "peak": 0.5, "end": 0.1}


def test_a_gain_is_promoted_with_its_numbers(tmp_path):
    folder = write(tmp_path / "run", [RISE_AND_FALL], [Checkpoint(0, 3)])
    code, said, _ = run(f"--run={folder}", "--bound=0")
    assert code == 0
    assert said["promote"]
    assert said["candidate"].endswith("run:0:peak")
    assert said["incumbent"].endswith("run:0:start")
    (test,) = said["tests"]
    assert (test["panel"], test["bound"]) == ("report", 0)
    assert test["difference"]["mean"] == pytest.approx(0.2)
    gains = 0.2 * (0.5 + np.arange(PROBLEMS) / (PROBLEMS - 1))
    assert test["p"] == pytest.approx(2.0**-PROBLEMS)  # no sign can be flipped
    # It agrees with a t test up to the difference in small samples.
    error = np.std(gains, ddof=1) / np.sqrt(PROBLEMS)
    expected = 0.2 - student.ppf(0.95, PROBLEMS - 1) * error
    assert test["lowest"] == pytest.approx(expected, abs=0.05 * error)
    assert p_above(gains, test["lowest"]) <= 0.05 < p_above(gains, test["lowest"] + 0.1 * error)


def test_a_loss_is_not(tmp_path):
    folder = write(tmp_path / "run", [RISE_AND_FALL], [Checkpoint(0, 5)])
    code, said, _ = run(f"--run={folder}")
    assert code == 1
    assert said["reason"].startswith("report: below -0.05, -0.200 with a lower bound of -0.2")
    assert said["tests"][0]["worse"]


def test_what_cannot_be_told_is_not_promoted(tmp_path):
    rng = np.random.default_rng(0)
    folder = write(tmp_path / "run", [RISE_AND_FALL], [Checkpoint(0, 3)])
    (line,) = rundir.read_lines(folder / rundir.CAMPAIGNS)
    for place in ("start", "peak"):
        line["scores"][place]["pass_rates"] = rng.integers(0, 2, PROBLEMS).astype(float).tolist()
    rundir.keep_lines(folder / rundir.CAMPAIGNS, [line])
    code, said, _ = run(f"--run={folder}", "--bound=-0.02")
    assert code == 1
    assert not said["tests"][0]["worse"]
    assert "not shown to be above -0.02" in said["reason"]


def test_one_policy_over_itself(tmp_path):
    folder = write(tmp_path / "run", [RISE_AND_FALL], [None])
    code, said, _ = run(f"--run={folder}")
    assert (code, said["candidate"][-7:]) == (0, "0:start")


def test_a_capability_that_falls_holds_it_back(tmp_path):
    capabilities = [("cpp", {"peak": -0.3}), ("hard", {})]
    folder = write(tmp_path / "run", [RISE_AND_FALL], [Checkpoint(0, 3)], capabilities)
    code, said, _ = run(f"--run={folder}")
    assert code == 1
    assert [(t["panel"], t["passes"]) for t in said["tests"]] == [
        ("report", True), ("cpp", False), ("hard", True),
    ]  # fmt: skip
    assert said["reason"].startswith("cpp: below -0.05, -0.100")
    assert run(f"--run={folder}", "--protect=hard")[0] == 0
    assert run(f"--run={folder}", "--protect=")[0] == 0
    assert run(f"--run={folder}", "--bounds=cpp=-0.2")[0] == 0
    assert run(f"--run={folder}", "--bounds=cpp=-0.2,report=0.3")[0] == 1


def test_places_of_two_runs_and_of_earlier_campaigns(tmp_path):
    second = {"start": 0.5, "peak": 0.6, "end": 0.2}
    kept = [Checkpoint(0, 3), Checkpoint(0, 3)]
    a = write(tmp_path / "a", [RISE_AND_FALL, second], kept)
    b = write(tmp_path / "b", [RISE_AND_FALL], [Checkpoint(0, 5)])
    for candidate, incumbent, mean in (
        (f"{a}:peak", f"{b}:peak", 0.1),
        (f"{a}:0:end", f"{b}:start", -0.2),
        (f"{a}:1.5", f"{a}:0.3", -0.3),
        (f"{a}:start", f"{a}:1:start", -0.2),
        (f"{a}:kept", f"{b}:kept", 0.4),  # the second campaign kept the first one's peak
    ):
        _, said, _ = run(f"--candidate={candidate}", f"--incumbent={incumbent}")
        assert said["tests"][0]["difference"]["mean"] == pytest.approx(mean)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name either --run"),
        (["--run=RUN", "--candidate=RUN:peak"], "name either --run"),
        (["--candidate=RUN:peak"], "needed together"),
        (["--candidate=RUN:peek", "--incumbent=RUN:start"], "names no checkpoint: write RUN:PLACE"),
        (["--candidate=RUN:4:peak", "--incumbent=RUN:start"], "campaigns 0 to 0 have finished"),
        (["--run=nowhere"], "there is no folder nowhere"),
        (["--run=EMPTY"], "no finished campaign"),
        (["--run=RUN", "--protect=cpp"], "was not measured on 'cpp'"),
        (["--run=RUN", "--bounds=cpp=0"], "--bounds names cpp, but tested are report"),
        (["--run=RUN", "--bounds=report"], "must be NAME=BOUND"),
        (["--run=RUN", "--level=0.7"], "--level=0.7"),
        (["--candidate=RUN:peak", "--incumbent=OTHER:peak"], "different panels"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(tmp_path, arguments, message):
    folder = write(tmp_path / "run", [RISE_AND_FALL], [Checkpoint(0, 3)])
    other = write(tmp_path / "other", [RISE_AND_FALL], [Checkpoint(0, 3)])
    (line,) = rundir.read_lines(other / rundir.CAMPAIGNS)
    line["scores"]["peak"]["problem_ids"][0] = "another"
    rundir.keep_lines(other / rundir.CAMPAIGNS, [line])
    (tmp_path / "empty").mkdir()
    names = {"RUN": folder, "OTHER": other, "EMPTY": tmp_path / "empty"}
    for name, path in names.items():
        arguments = [a.replace(name, str(path)) for a in arguments]
    code, said, error = run(*arguments)
    assert (code, said) == (2, None)
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
