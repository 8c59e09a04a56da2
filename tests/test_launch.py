"""Launching: the chains of a sweep run, share, wait, are killed, and resume at the second call."""

import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from launch import slurm
from launch.jobs import make_jobs
from selfreg.run import rundir
from selfreg.run.standing import BEGUN, ENDED, LOG, State, is_running, measured_s, read_standing

ROOT = Path(__file__).parent.parent
# A wave of three chains. ES and the chain with another start depend on A0, which is listed last.
WAVE = """
from selfreg.run.config import default
from selfreg.run.wave import Chain


def get_config(variant=""):
    config = default()
    config.name = "small"
    config.campaigns = 1
    config.update_from_flattened_dict({
        "campaign_budget_steps": 2, "problems.train": "procedural:main", "problems.held_out": "",
        "problems.train_count": 8, "problems.panel_count": 4,
        "problems.report_count": 4, "evaluation.every_steps": 9, "rollout.group_size": 4,
        "evaluation.panel_samples": 2, "evaluation.report_samples": 2,
        "rollout.max_new_tokens": 32, "learn.row_tokens": (32,), "grading.validate": False,
        "control_metric": "pass_rate",
    })
    return config


def sweep(variant=""):
    return (
        Chain("small", "ES", 7, changes={"campaigns": 2}, shares="small/A0/seed_7"),
        Chain("small-next", "A0", 7, changes={"learn.kl_schedule": (0.1, 0.2)},
              starts_from="small/A0/seed_7:0.2"),
        Chain("small", "A0", 7),
    )
"""


@pytest.fixture
def wave(tmp_path):
    file = tmp_path / "wave.py"
    file.write_text(WAVE)
    return file


def jobs_of(wave, *settings, sweeps=()):
    return make_jobs(str(wave), sweeps, settings, wave.parent / "runs")


def launch(wave, *arguments):
    return [
        sys.executable, "-m", "launch.sweep", f"--config={wave}", f"--runs={wave.parent / 'runs'}",
        *arguments,
    ]  # fmt: skip


INTERRUPTED = """
    import os, signal, subprocess, sys
    from pathlib import Path
    from launch.jobs import make_jobs
    from launch.local import run_local

    started = []

    class Interrupted(subprocess.Popen):
        def __init__(self, command, **options):
            super().__init__(["sleep", "60"], **options)
            started.append(self)
            os.kill(os.getpid(), signal.SIGINT)

    subprocess.Popen = Interrupted
    wave = Path(sys.argv[1])
    try:
        run_local(make_jobs(str(wave), (), (), wave.parent / "runs"), 2, lambda: None)
    except KeyboardInterrupt:
        print(*(process.poll() for process in started))
"""


def test_a_chain_that_is_being_started_hears_ctrl_c(wave):
    command = [sys.executable, "-c", textwrap.dedent(INTERRUPTED), str(wave)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert run.stdout == f"{-signal.SIGINT}\n", run.stderr


def test_a_killed_wave_is_finished_by_the_second_call(wave):
    runs = wave.parent / "runs"
    first, last = runs / "small/A0/seed_7", runs / "small/ES/seed_7"
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "cwd": ROOT}
    launcher = subprocess.Popen(launch(wave, "--jobs=1"), **output)
    deadline = time.monotonic() + 300
    while not (first / LOG).exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.5)
    assert not (first / rundir.CONFIG).exists()  # it is still loading, but counts as running
    assert read_standing(first).state is State.RUNNING
    while not rundir.read_records(first) and time.monotonic() < deadline:
        time.sleep(0.1)
    # Kill only the chain. Its launcher goes on, and finds no chain that can start without this one.
    chain = subprocess.run(
        ["pgrep", "-f", f"selfreg.main.*--workdir={first}$"], capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert is_running(first)
    os.kill(int(chain.stdout.split()[0]), signal.SIGKILL)
    said, _ = launcher.communicate(timeout=300)
    assert launcher.returncode == 1, said
    assert f"{first} failed: ended by signal 9" in said
    assert read_standing(first).state is State.FAILED
    assert not last.exists() or not rundir.read_summaries(last)

    launcher = subprocess.Popen(
        launch(wave, "--jobs=2"), **output, start_new_session=True,
        # React to SIGINT as at a terminal, even if a shell runs these tests in its background.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    while (first / LOG).read_text().count(BEGUN) < 2 and launcher.poll() is None:
        time.sleep(0.1)
    launcher.send_signal(signal.SIGINT)
    said, _ = launcher.communicate(timeout=300)
    assert launcher.returncode == 130, said
    assert "Run the same command to resume the chains" in said
    assert not is_running(first)
    assert read_standing(first).state is State.STOPPED

    again = subprocess.run(launch(wave, "--jobs=2"), **output, check=False, timeout=600)
    assert again.returncode == 0, again.stdout
    jobs = jobs_of(wave)
    assert {read_standing(job.folder).state for job in jobs} == {State.FINISHED}
    assert (first / LOG).read_text().count(BEGUN) == 3
    theirs, ours = (
        (run / "checkpoints/campaign_00/0/_CHECKPOINT_METADATA").stat() for run in (first, last)
    )
    assert theirs.st_ino == ours.st_ino
    assert rundir.read_lines(runs / "small-next/A0/seed_7" / rundir.CAMPAIGNS)

    begun = {job.folder: (job.folder / LOG).read_text() for job in jobs}
    third = subprocess.run(launch(wave), **output, check=False, timeout=300)
    assert third.returncode == 0, third.stdout
    assert "3 chains, 3 finished" in third.stdout
    assert third.stdout.count("measured") == 3
    assert begun == {job.folder: (job.folder / LOG).read_text() for job in jobs}

    status = subprocess.run(
        [sys.executable, "-m", "selfreg.status", f"--runs={runs}"], **output, check=True
    )
    assert len(re.findall(r"small\S* +(?:A0|ES) +7 +\d/\d +\d/\d .* finished", status.stdout)) == 3


def test_a_dry_run_prints_commands_that_are_the_chains(wave):
    run = subprocess.run(
        launch(wave, "--dry_run", "--config.optimizer.lr=1e-3"), cwd=ROOT, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    runs = wave.parent / "runs"
    assert not runs.exists()
    commands = [line for line in run.stdout.splitlines() if line.startswith("python -m")]
    assert len(commands) == 3
    assert f"--config.share_first_campaign_of={runs}/small/A0/seed_7" in commands[0]
    assert f"--config.init_checkpoint={runs}/small/A0/seed_7:0.2" in commands[1]
    assert all("--config.optimizer.lr=1e-3" in command for command in commands)
    assert "campaign 0 of" in run.stdout
    assert run.stdout.count("planned") == 4


def test_jobs_have_the_configs_that_their_commands_give(wave):
    shared, started, first = jobs_of(wave, "--config.optimizer.lr=2e-3")
    assert {job.config.optimizer.lr for job in (shared, started, first)} == {2e-3}
    assert started.config.learn.kl_schedule == (0.1, 0.2)
    assert (started.config.campaigns, started.config.name) == (1, "small-next")
    assert (shared.needs_first_campaign, shared.needs) == (first.folder, None)
    assert (started.needs_first_campaign, started.needs) == (None, first.folder)
    assert [job.is_ready for job in (shared, started, first)] == [False, False, True]


def test_a_sweep_is_the_product_of_its_keys(wave):
    sweeps = ("seed=7,11", "condition=A0,ES", "learn.kl_schedule=(0.1,0.2),()")
    jobs = jobs_of(wave, sweeps=sweeps)
    assert len(jobs) == len({job.folder for job in jobs}) == 8
    assert {(j.config.seed, j.config.condition, j.config.learn.kl_schedule) for j in jobs} == {
        (seed, condition, schedule)
        for seed in (7, 11)
        for condition in ("A0", "ES")
        for schedule in ((0.1, 0.2), ())
    }
    place = "small-learn.kl_schedule=(0.1,0.2)/ES/seed_11"
    assert wave.parent / "runs" / place in {job.folder for job in jobs}


@pytest.mark.parametrize(
    ("settings", "sweeps", "words"),
    [
        (["--config.seed=7"], [], "use --sweep=seed=VALUE"),
        (["--config.sed=7"], [], "did you mean seed?"),
        ([], ["seed"], "--sweep=seed is not KEY=VALUE,VALUE"),
        ([], ["sed=7"], "did you mean seed?"),
        ([], ["seed=x"], "a seed is a whole number"),
        ([], ["condition=A9"], "config.condition='A9' is not possible"),
        ([], ["optimizer.lr=fast"], "fast"),
    ],
)
def test_what_cannot_be_swept_is_refused(settings, sweeps, words, wave):
    with pytest.raises(ValueError, match=re.escape(words)):
        jobs_of(wave, *settings, sweeps=sweeps)


def test_a_config_file_that_is_not_there_is_named():
    with pytest.raises(ValueError, match=r"--config=configs/none.py: there is no such file"):
        make_jobs("configs/none.py", (), (), Path("runs"))


def test_a_folder_of_another_config_is_refused_before_anything_runs(wave):
    (job, *_) = jobs_of(wave)
    job.folder.mkdir(parents=True)
    rundir.write_json(job.folder / rundir.CONFIG, job.config.to_dict() | {"campaigns": 9})
    with pytest.raises(ValueError, match="campaigns: 9 there, 2 now"):
        jobs_of(wave)


@pytest.mark.parametrize(
    ("log", "state", "error"),
    [
        (None, State.NOT_BEGUN, ""),
        (f"{BEGUN}x\nat work\n", State.STOPPED, ""),
        (f"{BEGUN}x\nstopped; run again\n{ENDED}130 after 3 s\n", State.STOPPED, ""),
        (f"{BEGUN}x\nKeyboardInterrupt\n{ENDED}-2 after 3 s\n", State.STOPPED, ""),
        (f"{BEGUN}x\nTraceback\nKeyboardInterrupt\n{ENDED}1 after 3 s\n", State.STOPPED, ""),
        (f"{BEGUN}x\nerror: no such\nRun again\n{ENDED}2 after 3 s\n", State.FAILED, "no such"),
        (f"{BEGUN}x\nTraceback\nKeyError: 5\n\n{ENDED}1 after 3 s\n", State.FAILED, "KeyError: 5"),
        (f"{BEGUN}x\nwork\n{ENDED}-9 after 3 s\n", State.FAILED, "ended by signal 9"),
        (f"{BEGUN}x\nerror: a\n{ENDED}2 after 3 s\n{BEGUN}x\nwork\n", State.STOPPED, ""),
    ],
)  # fmt: skip
def test_a_standing_is_what_the_log_says(log, state, error, tmp_path):
    if log is not None:
        (tmp_path / LOG).write_text(log)
    standing = read_standing(tmp_path)
    assert (standing.state, standing.error) == (state, error if state is State.FAILED else "")
    ends = (log or "").count(ENDED)
    assert measured_s(tmp_path) == (3.0 * ends if ends else None)


SLURM = shutil.which("sinfo") and not subprocess.run(["sinfo"], capture_output=True).returncode


@pytest.mark.parametrize(
    "cluster",
    [
        "local",
        pytest.param(
            "slurm", marks=pytest.mark.skipif(not SLURM, reason="no SLURM answers sinfo here")
        ),
    ],
)
def test_submitted_chains_run_and_those_that_wait_come_after(cluster, wave):
    shared, _, first = jobs_of(wave)
    options = {"timeout_min": 10}
    # Without SLURM no chain waits, so leave out the chain that needs another's first campaign.
    jobs = [shared, first] if cluster == "slurm" else [first]
    queued = slurm.submit(jobs, wave.parent / "runs", options, 1, cluster)
    assert [job.result() for job in queued] == [0] * len(jobs)
    assert {read_standing(job.folder).state for job in jobs} == {State.FINISHED}
    assert slurm.submit(jobs, wave.parent / "runs", options, 1, cluster) == []
