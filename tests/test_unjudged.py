"""A chain whose completions try to stop it, and a grader that cannot judge all of them."""

import os
import signal

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from selfreg.grading import GraderError
from selfreg.grading.process import WorkerProcess
from selfreg.loop import campaign, chain
from selfreg.policy.rollout import engines
from selfreg.run import rundir
from tests.test_chain import Scripted, small

# Programs that once ended a run, and similar ones. None passes, and all define the function.
SOLVE = "\ndef solve(*_):\n    return None\n"
STOPPERS = (
    "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (0, 0))\nn = 0\nwhile 1: n += 1\n",
    "import ctypes, time\nL = ctypes.CDLL(None)\n"
    "event, timer = (ctypes.c_long * 8)(0, 9), ctypes.c_int()\n"
    "L.syscall(222, 0, event, ctypes.byref(timer))\n"
    "L.syscall(223, timer, 0, (ctypes.c_long * 4)(0, 0, 0, 1000000), None)\ntime.sleep(0.2)\n",
    "import os\nos.kill(os.getpid(), 19)\n",
    "import os\nfor n in range(3, 99):\n    try: os.close(n)\n    except OSError: pass\n",
    "import os\nos.write(3, b'\\xff' * 99999)\n",
    "import os\nos.dup2(1, 3)\n",
    "import resource\nfor n in range(2, 16):\n    resource.setrlimit(n, (0, 0))\n",
    "import types\nnt = winreg = solve = types.ModuleType('nt')\n",
    "import os\nos.abort()\n",
    "import ctypes\nctypes.string_at(0)\n",
)
BREAKS = "# breaks the grader"


class Hostile(Scripted):
    """Answers with two right programs, one that breaks the grader, and some to stop a run."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        solve = self._answer

        def answer(request, index):
            if index < 2:
                return solve(request, index)
            if index == 2:
                return f"```python\n{SOLVE}{BREAKS}\n```"
            place = int(request.seeds[0]) + index
            return f"```python\n{STOPPERS[place % len(STOPPERS)]}{SOLVE}```"

        self._answer = answer


class Killed(Exception):
    """Replaces a kill."""


@pytest.fixture
def fragile(monkeypatch):
    """A grader that fails on one program, and then on programs that are known to be good."""
    submit = WorkerProcess.submit

    def submit_or_break(self, task, job, *limits):
        if BREAKS in job["program"] or job["program"] == "def f(x):\n    return x\n":
            os.killpg(self._process.pid, signal.SIGKILL)
        submit(self, task, job, *limits)

    with monkeypatch.context() as patch:
        patch.setattr(WorkerProcess, "submit", submit_or_break)
        yield patch


def records(folder):
    """Return step records without timings."""
    unequal = ("time/", "compiles", "grader/program_")
    return [
        (r.step, {k: v for k, v in r.metrics.items() if not k.startswith(unequal)})
        for r in rundir.read_records(folder)
    ]


def weights(folder, step):
    place = folder.absolute() / "checkpoints" / "campaign_00" / str(step)
    with ocp.StandardCheckpointer() as reader:
        return [reader.restore(place / item) for item in ("params", "moments")]


@pytest.mark.parametrize("algorithm", ["grpo", "rloo", "dpo"])
def test_a_hostile_chain_goes_on_and_resumes_to_the_bit(algorithm, tmp_path, monkeypatch, fragile):
    monkeypatch.setattr(engines, "JaxEngine", Hostile)
    monkeypatch.setattr(Hostile, "script", (0.5,))
    config = small(
        **{
            "campaigns": 1, "campaign_budget_steps": 4, "learn.algorithm": algorithm,
            "rollout.group_size": 8, "evaluation.panel_samples": 1,
            "evaluation.report_samples": 1, "evaluation.every_steps": 2,
            "checkpoint.every_steps": 2, "grading.time_limit_scale": 0.1,
            "grading.max_retries": 0,
        }
    )  # fmt: skip
    chain.run_chain(config, tmp_path / "whole")
    whole = records(tmp_path / "whole")
    drawn = [metrics for _, metrics in whole if "loss" in metrics]
    assert len(drawn) == 4
    assert [metrics["grader/unjudged"] for metrics in drawn] == [1 / 8] * 4
    assert [metrics["pass_rate"] for metrics in drawn] == pytest.approx([2 / 7] * 4)
    aside = rundir.read_unjudged(tmp_path / "whole")
    assert [(u.step, u.stream) for u in aside] == [(step, "train") for step in range(4)]
    assert all(BREAKS in u.program and "known-good" in u.detail for u in aside)

    update = campaign.update

    def killed_at_3(*args):
        if args[4] == 3:
            raise Killed
        return update(*args)

    monkeypatch.setattr(campaign, "update", killed_at_3)
    with pytest.raises(Killed):
        chain.run_chain(config, tmp_path / "killed")
    monkeypatch.setattr(campaign, "update", update)
    # The grader works again. What was set aside must stay so, or the weights would differ.
    fragile.undo()
    chain.run_chain(config, tmp_path / "killed")
    for (step, metrics), (same, wanted) in zip(records(tmp_path / "killed"), whole, strict=True):
        differing = {name for name in wanted if metrics.get(name) != wanted[name]}
        assert (step, metrics.keys(), differing) == (same, wanted.keys(), set())
    ends = [weights(tmp_path / name, 4) for name in ("whole", "killed")]
    jax.tree.map(np.testing.assert_array_equal, *ends)


def test_a_grader_that_judges_too_few_ends_the_run(tmp_path, monkeypatch, fragile):
    monkeypatch.setattr(engines, "JaxEngine", Hostile)
    monkeypatch.setattr(Hostile, "script", (0.5,))
    monkeypatch.setattr("tests.test_unjudged.STOPPERS", (BREAKS,))
    settings = {"campaigns": 1, "grading.max_retries": 0}
    with pytest.raises(GraderError, match=r"2 of 4 completions have no verdict, more than the 1 of "
                       r"config.grading.max_unjudged_share=0.1 .*infra_error"):  # fmt: skip
        chain.run_chain(small(**settings), tmp_path)
    assert rundir.read_unjudged(tmp_path) == []
