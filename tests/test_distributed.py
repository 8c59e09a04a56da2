"""Two processes, killed and interrupted, give bit for bit what one of as many devices gives."""

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from selfreg import rundir

ROOT = Path(__file__).parent.parent
FLAGS = (
    f"--config={ROOT}/configs/tiny.py --config.campaigns=1 --config.campaign_budget_steps=4 "
    "--config.problems.panel_count=4 --config.problems.report_count=4 "
    "--config.evaluation.every_steps=2 --config.evaluation.panel_samples=4 "
    "--config.evaluation.report_samples=4 --config.checkpoint.every_steps=1 "
    "--config.rollout.problems_per_step=4 --config.rollout.group_size=4 "
    "--config.rollout.max_new_tokens=48 --config.optimizer.lr=1e-3 "
    "--config.grading.validate=False --config.mesh.data=1 --config.mesh.fsdp=2 "
    "--config.mesh.tensor=2"
).split()


def environment(eight_devices, devices):
    flags = eight_devices["XLA_FLAGS"].replace("device_count=8", f"device_count={devices}")
    return eight_devices | {"XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)}


def start(points, flags, environment):
    """Start a process for each point of killed_run.py; their codes and what they said."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = []
    for index, point in enumerate(points):
        command = [sys.executable, str(ROOT / "tests/killed_run.py"), point, *flags]
        if len(points) > 1:
            command += [f"--coordinator=127.0.0.1:{port}", f"--process_count={len(points)}"]
            command += [f"--process_index={index}"]
        started.append(
            subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
    said = [process.communicate(timeout=400) for process in started]
    return [process.returncode for process in started], said


@pytest.fixture(scope="module")
def runs(tmp_path_factory, eight_devices):
    """The same run in one process of four devices and in two of two."""
    folder = tmp_path_factory.mktemp("runs")
    codes, said = start(
        ["none:0"], [*FLAGS, f"--workdir={folder}/one"], environment(eight_devices, 4)
    )
    assert codes == [0], said
    flags, two = [*FLAGS, f"--workdir={folder}/two"], environment(eight_devices, 2)
    codes, said = start(["updated:2"] * 2, flags, two)
    assert codes == [-signal.SIGKILL] * 2, said
    codes, interrupted = start(["none:0", "interrupted:1"], flags, two)
    assert codes == [130, 130], interrupted
    codes, said = start(["none:0"] * 2, flags, two)
    assert codes == [0, 0], said
    return folder / "one", folder / "two", interrupted, said


def test_metrics_are_bit_identical(runs):
    def of(folder):
        unequal = ("time/", "compiles", "grader/program_")
        return [
            {k: v for k, v in r.metrics.items() if not k.startswith(unequal)}
            for r in rundir.read_records(folder)
        ]

    assert len(of(runs[0])) == 5
    assert of(runs[1]) == of(runs[0])
    assert any(metrics.get("grad_norm") for metrics in of(runs[0]))
    lines = [rundir.read_lines(folder / rundir.CAMPAIGNS) for folder in runs[:2]]
    assert lines[0] == lines[1]


def test_the_first_process_alone_speaks_and_writes(runs):
    (first, _), (second, _) = runs[3]
    assert "report.html" in first
    assert "campaign 1/1" in first
    assert second.replace("[Gloo]", "").count("campaign") == 0
    starts = json.loads((runs[1] / rundir.MANIFEST).read_text())["starts"]
    assert [start["processes"] for start in starts] == [2, 2, 2]
    assert all(len(start["devices"]) == 4 for start in starts)


def test_ctrl_c_in_one_process_ends_both(runs):
    for _, errors in runs[2]:
        assert "stopped; run the same command again" in errors
        assert "Traceback" not in errors


def test_an_error_of_the_first_process_ends_both_with_one_line(runs, eight_devices, tmp_path):
    flags = [*FLAGS, "--config.seed=8", f"--workdir={runs[1]}"]
    codes, said = start(["none:0"] * 2, flags, environment(eight_devices, 2))
    assert codes == [2, 2], said
    for _, errors in said:
        assert "error: --workdir=" in errors
        assert "seed: 7 there, 8 now" in errors
        assert "Traceback" not in errors


@pytest.mark.parametrize(
    "arguments", ["'somewhere', 2, 0", "'here:99', 2, None", "'auto', None, None"]
)
def test_what_a_run_of_several_needs_is_said(arguments):
    code = f"from selfreg import distributed; distributed.start({arguments})"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert "ValueError: --coordinator=" in run.stderr
    assert "--process_count and --process_index" in run.stderr
