"""Two processes, killed and interrupted, equal one process with as many devices, bit for bit."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from selfreg.run import rundir

ROOT = Path(__file__).parent.parent
FLAGS = (
    f"--config={ROOT}/configs/tiny.py --config.campaigns=1 --config.campaign_budget_steps=3 "
    "--config.problems.panel_count=4 --config.problems.report_count=4 "
    "--config.evaluation.every_steps=3 --config.evaluation.panel_samples=4 "
    "--config.evaluation.report_samples=4 --config.checkpoint.every_steps=1 "
    "--config.rollout.problems_per_step=4 --config.rollout.group_size=4 "
    "--config.rollout.max_new_tokens=48 --config.learn.row_tokens=(48,) --config.optimizer.lr=1e-3 "
    "--config.grading.validate=False --config.mesh.data=1 --config.mesh.fsdp=2 "
    "--config.mesh.tensor=2"
).split()


def environment(eight_devices, devices):
    flags = eight_devices["XLA_FLAGS"].replace("device_count=8", f"device_count={devices}")
    return eight_devices | {"XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)}


class Processes:
    """Several processes of killed_run.py, each with a file for the output of its runs."""

    def __init__(self, folder, count, flags, environment):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [sys.executable, str(ROOT / "tests/killed_run.py"), *flags]
        if count > 1:
            command += [f"--coordinator=127.0.0.1:{port}", f"--process_count={count}"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
        self.all = []
        for index in range(count):
            said = folder / f"said_{count}_{index}"
            own = [f"--process_index={index}"] if count > 1 else []
            with said.open("w") as errors:
                process = subprocess.Popen(
                    command + own, env=environment, stderr=errors, start_new_session=True, **pipes
                )
            self.all.append((process, said))

    def run(self, *points):
        """Run all processes, each to its point. Return their exit codes and their output."""
        before = [len(said.read_text()) for _, said in self.all]
        for (process, _), point in zip(self.all, points, strict=True):
            process.stdin.write(f"{point}\n")
        watch = threading.Timer(400, self.kill)
        watch.start()
        codes = [int(process.stdout.readline() or 99) for process, _ in self.all]
        watch.cancel()
        return codes, [s.read_text()[n:] for (_, s), n in zip(self.all, before, strict=True)]

    def kill(self):
        for process, _ in self.all:
            os.killpg(process.pid, signal.SIGKILL)

    def end(self):
        for process, _ in self.all:
            process.communicate(timeout=60)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, eight_devices):
    """Make the same run in one process of four devices and in two processes of two."""
    folder = tmp_path_factory.mktemp("runs")
    flags = [*FLAGS, f"--workdir={folder}/one"]
    alone = Processes(folder, 1, flags, environment(eight_devices, 4))
    codes, said = alone.run("none:0")
    assert codes == [0], said
    alone.end()
    flags = [*FLAGS, f"--workdir={folder}/two"]
    pair = Processes(folder, 2, flags, environment(eight_devices, 2))
    codes, said = pair.run("updated:2", "updated:2")
    assert codes == [-signal.SIGKILL] * 2, said
    codes, interrupted = pair.run("none:0", "interrupted:1")
    assert codes == [130, 130], interrupted
    codes, said = pair.run("none:0", "none:0")
    assert codes == [0, 0], said
    yield folder / "one", folder / "two", interrupted, said, pair
    pair.end()


def test_metrics_are_bit_identical(runs):
    def of(folder):
        unequal = ("time/", "compiles", "grader/program_")
        return [
            {k: v for k, v in r.metrics.items() if not k.startswith(unequal)}
            for r in rundir.read_records(folder)
        ]

    assert len(of(runs[0])) == 4
    assert of(runs[1]) == of(runs[0])
    assert any(metrics.get("grad_norm") for metrics in of(runs[0]))
    lines = [rundir.read_lines(folder / rundir.CAMPAIGNS) for folder in runs[:2]]
    assert lines[0] == lines[1]


def test_the_first_process_alone_speaks_and_writes(runs):
    first, second = runs[3]
    assert "report.html" in first
    assert "campaign 1/1" in first
    assert second.replace("[Gloo]", "").count("campaign") == 0
    starts = json.loads((runs[1] / rundir.MANIFEST).read_text())["starts"]
    assert [start["processes"] for start in starts] == [2, 2, 2]
    assert all(len(start["devices"]) == 4 for start in starts)


def test_ctrl_c_in_one_process_ends_both(runs):
    for errors in runs[2]:
        assert "stopped; run the same command again" in errors
        assert "Traceback" not in errors


def test_an_error_of_the_first_process_ends_both_with_one_line(runs):
    file = runs[1] / rundir.CONFIG
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"seed": 8}))
    codes, said = runs[4].run("none:0", "none:0")
    file.write_text(json.dumps(config))
    assert codes == [2, 2], said
    for errors in said:
        assert "error: --workdir=" in errors
        assert "seed: 8 there, 7 now" in errors
        assert "Traceback" not in errors


@pytest.mark.parametrize(
    "arguments", ["'somewhere', 2, 0", "'here:99', 2, None", "'auto', None, None"]
)
def test_what_a_run_of_several_needs_is_said(arguments):
    code = f"from selfreg.policy import distributed; distributed.start({arguments})"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert "ValueError: --coordinator=" in run.stderr
    assert "--process_count and --process_index" in run.stderr
