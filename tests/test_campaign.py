"""Several updates from one batch of completions, and how a kill and a restore affect them."""

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from selfreg.loop import campaign, chain
from selfreg.policy.rollout import engines
from selfreg.run import rundir
from tests.test_chain import Scripted, small

# Stops a campaign after step 3, exactly where completions were drawn again.
STOP_ONCE = """
from selfreg.control.protocol import Within
from selfreg.run.records import Verdict

def observe(state, record):
    return state, Verdict.STOP if record.step == 3 else Verdict.CONTINUE

CONTROL = Within(lambda base, plan: None, observe)
"""
SHARES = {"0.0": 0.5, "0.3": 0.25, "0.4": 0.75, "0.6": 0.25}


class ByVersion(Scripted):
    """Solves a fraction of the problems that depends on the weights' version."""

    def load_params(self, params, version=""):
        super().load_params(params, version)
        type(self).script = (SHARES.get(version, 0.0),)


class Killed(Exception):
    """Replaces a kill."""


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
    # Completions are drawn at 0 and 3, at 4 because the campaign returned to its peak, and at 6.
    assert [m["rollout/staleness_steps"] for m in learned] == [0, 1, 2, 0, 0, 1, 0, 1]
    shares = [m.get("pass_rate") for m in learned]
    assert shares == [0.5, None, None, 0.25, 0.75, None, 0.25, None]
    assert learned[0]["ewc_penalty"] == 0 < learned[2]["ewc_penalty"]
    assert [m.get("control/restores", 0) for m in learned] == [0] * 4 + [1] * 4

    update = campaign.update

    def killed_at(step):
        def until(*args):
            if args[4] == step:
                raise Killed
            return update(*args)

        return until

    # Kill between updates on the first draw, on the draw after the restore, and on the last draw.
    for step in (2, 5, 7):
        monkeypatch.setattr(campaign, "update", killed_at(step))
        with pytest.raises(Killed):
            chain.run_chain(config, tmp_path / "killed")
    monkeypatch.setattr(campaign, "update", update)
    chain.run_chain(config, tmp_path / "killed")
    assert records(tmp_path / "killed") == whole
    ends = [weights(tmp_path / name, 8) for name in ("whole", "killed")]
    jax.tree.map(np.testing.assert_array_equal, *ends)


class Uneven(ByVersion):
    """Half of its completions usually pass, and at some steps none."""

    def load_params(self, params, version=""):
        super().load_params(params, version)
        step = int(version.split(".")[1]) if version[:1].isdigit() else 0
        type(self).script = (0.0 if step % 4 == 3 else 0.5,)


STEADY = {
    "campaigns": 2, "campaign_budget_steps": 7, "checkpoint.every_steps": 3,
    "evaluation.every_steps": 2, "learn.algorithm": "grpo", "optimizer.lr": 1e-3,
    "learn.kl_coef": 0.05, "learn.kl_target": 0.01, "learn.entropy_target": 2.0,
    "learn.entropy_step": 0.01, "learn.reference_every_steps": 2, "optimizer.average_decay": 0.5,
    "learn.drop_without_signal": True, "rollout.redraws": 1, "optimizer.skip_norm_factor": 1.05,
}  # fmt: skip


def saved(folder, campaign_number, step, name):
    place = folder.absolute() / "checkpoints" / f"campaign_{campaign_number:02d}" / str(step)
    with ocp.StandardCheckpointer() as reader:
        return reader.restore(place / name)


def test_what_follows_measurements_is_averaged_or_moves_resumes_to_the_bit(tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "JaxEngine", Uneven)
    monkeypatch.setattr("selfreg.policy.learn.pace.FEWEST_NORMS", 2)
    config = small(**STEADY)
    chain.run_chain(config, tmp_path / "whole")
    whole = records(tmp_path / "whole")
    learned = [metrics for _, metrics in whole if "loss" in metrics]
    # At step 3 neither the first nor the redrawn completions pass, so the weights do not change.
    for step in (3, 10):
        assert learned[step]["update_skipped"] == 1
        assert learned[step]["update_norm"] == learned[step]["bf16_changed_fraction"] == 0
        assert learned[step]["rollout/redrawn_groups"] == 1
        assert learned[step]["rollout/drawn_completions"] == 8
        assert learned[step]["rollout/groups_with_signal"] == 0
    assert learned[0]["update_norm"] > 0 == learned[0]["rollout/redrawn_groups"]
    # Each coefficient has moved from its initial value, and starts again in the next campaign.
    assert [m["kl_coef"] for m in learned[:2]] == pytest.approx([0.05, 0.05 * 0.98])
    assert learned[0]["entropy_coef"] == learned[7]["entropy_coef"] == 0.0
    assert len({m["entropy_coef"] for m in learned[:7]}) > 3
    # After two steps, the policy becomes its own reference again.
    assert learned[1]["k3_kl"] > 0
    assert learned[2]["k3_kl"] < learned[1]["k3_kl"]
    counts = [m["updates_skipped"] for m in learned[:7]]
    assert counts == list(np.cumsum([m["update_skipped"] for m in learned[:7]]))

    update = campaign.update

    def killed_at(nth):
        calls = 0

        def until(*args):
            nonlocal calls
            calls += 1
            if calls == nth:
                raise Killed
            return update(*args)

        return until

    for nth in (3, 5, 6, 5):
        monkeypatch.setattr(campaign, "update", killed_at(nth))
        with pytest.raises(Killed):
            chain.run_chain(config, tmp_path / "killed")
    monkeypatch.setattr(campaign, "update", update)
    chain.run_chain(config, tmp_path / "killed")
    assert records(tmp_path / "killed") == whole
    for name in ("params", "trained", "moments", "reference"):
        ends = [saved(tmp_path / folder, 1, 7, name) for folder in ("whole", "killed")]
        jax.tree.map(np.testing.assert_array_equal, *ends)
    # The average is kept and starts the next campaign, but training continues from other weights.
    kept, trained = (saved(tmp_path / "whole", 0, 7, name) for name in ("params", "trained"))
    assert not np.array_equal(kept["blocks"]["q"], trained["blocks"]["q"])
    start = saved(tmp_path / "whole", 1, 0, "trained")
    jax.tree.map(np.testing.assert_array_equal, start, kept)
