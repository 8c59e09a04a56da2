"""Several updates from one draw of completions, and what a kill and a restore make of them."""

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from selfreg import campaign, chain, rundir
from selfreg.rollout import engines
from tests.test_chain import Scripted, small

# Stops a campaign after step 3, just where completions were drawn anew.
STOP_ONCE = """
from selfreg.control.protocol import Within
from selfreg.records import Verdict

def observe(state, record):
    return state, Verdict.STOP if record.step == 3 else Verdict.CONTINUE

CONTROL = Within(lambda base, plan: None, observe)
"""
SHARES = {"0.0": 0.5, "0.3": 0.25, "0.4": 0.75, "0.6": 0.25}


class ByVersion(Scripted):
    """Solves a share of the problems that depends on the weights' name."""

    def load_params(self, params, version=""):
        super().load_params(params, version)
        type(self).script = (SHARES.get(version, 0.0),)


class Killed(Exception):
    """In the place of a kill."""


def records(folder):
    """Step records without what a clock says."""
    unequal = ("time/", "compiles", "grader/program_")
    return [
        (r.step, {k: v for k, v in r.metrics.items() if not k.startswith(unequal)})
        for r in rundir.read_records(folder)
    ]


def weights(folder, step):
    place = folder.absolute() / "checkpoints" / "campaign_00" / str(step)
    with ocp.StandardCheckpointer() as reader:
        return [reader.restore(place / item) for item in ("params", "moments")]


def test_updates_of_one_draw_resume_to_the_bit(tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "JaxEngine", ByVersion)
    control = tmp_path / "stop_once.py"
    control.write_text(STOP_ONCE)
    config = small(
        **{
            "campaigns": 1, "campaign_budget_steps": 8, "learn.algorithm": "rloo",
            "learn.updates_per_batch": 3, "evaluation.every_steps": 3,
            "checkpoint.every_steps": 3, "control_metric": "pass_rate", "learn.ewc_coef": 10.0,
            "within": str(control), "control.max_restores": 1,
        }
    )  # fmt: skip
    chain.run_chain(config, tmp_path / "whole")
    whole = records(tmp_path / "whole")
    learned = [metrics for _, metrics in whole if "loss" in metrics]
    # Drawn at 0 and 3; at 4, as the campaign is back at its peak; and at 6.
    assert [m["rollout/staleness_steps"] for m in learned] == [0, 1, 2, 0, 0, 1, 0, 1]
    shares = [m.get("pass_rate") for m in learned]
    assert shares == [0.5, None, None, 0.25, 0.75, None, 0.25, None]
    assert learned[0]["ewc_penalty"] == 0 < learned[2]["ewc_penalty"]
    assert [m.get("control/restores", 0) for m in learned] == [0] * 4 + [1] * 4

    update = campaign._update

    def killed_at(step):
        def until(*args):
            if args[4] == step:
                raise Killed
            return update(*args)

        return until

    # Between updates of one draw: of the first, of one made anew after the restore, of the last.
    for step in (2, 5, 7):
        monkeypatch.setattr(campaign, "_update", killed_at(step))
        with pytest.raises(Killed):
            chain.run_chain(config, tmp_path / "killed")
    monkeypatch.setattr(campaign, "_update", update)
    chain.run_chain(config, tmp_path / "killed")
    assert records(tmp_path / "killed") == whole
    ends = [weights(tmp_path / name, 8) for name in ("whole", "killed")]
    jax.tree.map(np.testing.assert_array_equal, *ends)
