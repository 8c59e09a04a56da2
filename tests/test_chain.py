"""Chains: scripted ones against expected decisions, a real one on 8 devices, and failures."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from selfreg.data.prompts import plain_text
from selfreg.data.sets import load_sets
from selfreg.loop import chain, update
from selfreg.loop.update import MismatchError, NonFiniteLossError
from selfreg.policy.rollout import engines
from selfreg.policy.rollout.scripted_engine import ScriptedEngine
from selfreg.run import rundir
from selfreg.run.config import default
from selfreg.run.records import Outcome
from selfreg.run.runlog import RunLog
from selfreg.run.validate import resolve

ROOT = Path(__file__).parent.parent


SHARES = [f"grader/{outcome}" for outcome in Outcome]


def small(**changes):
    config = default()
    config.update_from_flattened_dict(
        {
            "campaigns": 2, "campaign_budget_steps": 4, "problems.panel_count": 4,
            "problems.report_count": 4, "evaluation.every_steps": 1, "rollout.group_size": 4,
            "evaluation.panel_samples": 2, "evaluation.report_samples": 2,
            "rollout.max_new_tokens": 64, "learn.row_tokens": (64,), "optimizer.lr": 1e-4,
            "grading.validate": False,  # tests/data does
            "rollout.max_logprob_difference": 99.0,  # a script's logprobs are 0
            **changes,
        }
    )  # fmt: skip
    return resolve(config)


class Scripted(ScriptedEngine):
    """Solves a fraction of the problems that depends on how often weights were loaded."""

    script: tuple[float, ...] = ()

    def __init__(self, policy, *_, **__):
        sets = load_sets(default().problems)
        solutions = {plain_text(p): p.solution for p in (*sets.train, *sets.panel, *sets.report)}

        def answer(request, index):
            prompt = policy.tokenizer.decode(request.prompt_ids)
            share = self.script[min(self.loads - 2, len(self.script) - 1)]  # load 1 is the warm-up
            return solutions[prompt] if index < share * len(request.seeds) else "no program"

        super().__init__(policy.tokenizer, answer)


# Loads per campaign: one for each of steps 0 to 4, and then one for each distinct policy that the
# report panel measures.
RISE_AND_COLLAPSE = (0.5, 1.0, 0.5, 0.0, 0.0)


@pytest.mark.parametrize(
    ("condition", "starts", "budgets"),
    [("A0", [None, [0, 4]], [4, 4]), ("ES", [None, [0, 1]], [4, 8])],
)
def test_a_scripted_chain_makes_the_decisions_of_its_condition(
    condition, starts, budgets, tmp_path, monkeypatch
):
    monkeypatch.setattr(engines, "JaxEngine", Scripted)
    monkeypatch.setattr(Scripted, "script", (*RISE_AND_COLLAPSE, 0.5, 1.0, 0.0))
    chain.run_chain(small(condition=condition), tmp_path)
    first, second = rundir.read_summaries(tmp_path)
    assert (first.peak_step, first.end_step) == (1, 4)
    assert first.scores["peak"].pass_at_1 == 1.0
    assert [first.plan.start, second.plan.start] == [
        start and rundir.Checkpoint(*start) for start in starts
    ]
    assert [first.plan.budget_steps, second.plan.budget_steps] == budgets
    assert second.end_step == budgets[1]
    records = [r for r in rundir.read_records(tmp_path) if r.campaign == 0]
    assert [r.metrics["panel_pass_at_1"] for r in records] == list(RISE_AND_COLLAPSE)
    assert [r.metrics.get("pass_rate") for r in records] == [*RISE_AND_COLLAPSE[:4], None]


def test_a_finished_chain_runs_nothing_again(tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "JaxEngine", Scripted)
    monkeypatch.setattr(Scripted, "script", (0.5,))
    chain.run_chain(small(campaigns=1), tmp_path)
    before = (tmp_path / rundir.METRICS).read_text()
    monkeypatch.setattr(chain, "open_stages", None)  # it does not even load a policy
    chain.run_chain(small(campaigns=1), tmp_path)
    with pytest.raises(ValueError, match="seed: 7 there, 8 now"):
        chain.run_chain(small(campaigns=1, seed=8), tmp_path)
    assert (tmp_path / rundir.METRICS).read_text() == before


def test_a_non_finite_loss_stops_the_run_with_its_batch(tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "JaxEngine", Scripted)
    monkeypatch.setattr(Scripted, "script", (0.5,))
    collate = update.collate

    def poisoned(groups, **settings):
        batch = collate(groups, **settings)
        batch.token_weights[0, 0] = np.nan
        return batch

    monkeypatch.setattr(update, "collate", poisoned)
    with pytest.raises(NonFiniteLossError, match=r"step 0: loss nan.*failed_batch.npz"):
        chain.run_chain(small(), tmp_path)
    assert np.isnan(np.load(tmp_path / "failed_batch.npz")["token_weights"][0, 0])
    assert rundir.read_records(tmp_path) == []


def test_an_engine_of_another_policy_is_found_out_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "JaxEngine", Scripted)
    monkeypatch.setattr(Scripted, "script", (0.5,))
    with pytest.raises(MismatchError, match=r"differ by \d+.* a token.*max_logprob_difference=0.1"):
        chain.run_chain(small(**{"rollout.max_logprob_difference": 0.1}), tmp_path)
    assert rundir.read_records(tmp_path) == []


def test_overlapped_sampling_is_one_step_behind_and_says_so(tmp_path, monkeypatch):
    drawn = {}
    completions = RunLog.completions

    def spy(self, campaign, step, stream, groups):
        if stream == "train" and groups:
            drawn[campaign, step] = {v for g in groups for r in g.rollouts for v in r.versions}
        completions(self, campaign, step, stream, groups)

    monkeypatch.setattr(RunLog, "completions", spy)
    chain.run_chain(small(**{"rollout.overlap": True, "campaigns": 1}), tmp_path)
    assert drawn == {(0, step): {f"0.{max(0, step - 1)}"} for step in range(4)}
    learned = [r.metrics for r in rundir.read_records(tmp_path) if "loss" in r.metrics]
    assert [m["rollout/staleness_steps"] for m in learned] == [0, 1, 1, 1]
    # Sampler and trainer agree on the policy's own samples, but not on those of an earlier policy.
    differences = [m["rollout/logprob_abs_diff"] for m in learned]
    assert differences[0] < 1e-4 < min(differences[1:])


@pytest.mark.parametrize(
    "changes",
    [
        {"condition": "ES", "control_metric": "pass_rate", "evaluation.every_steps": 10},
        {
            "learn.algorithm": "grpo", "rollout.num_alter_tokens": 4, "learn.kl_coef": 0.05,
            "learn.kl_reference": "base", "rollout.problems_per_step": 2,
            "learn.microbatch_rows": 2, "learn.row_tokens": (48, 64),
            "optimizer.reset_each_campaign": False,
            "optimizer.weight_decay": 0.01, "optimizer.warmup_steps": 2, "rollout.top_p": 0.9,
            "optimizer.state_dtype": "bfloat16",
            "learn.use_importance_sampling_ratio": True, "learn.token_aggregation": "sequence_mean",
        },
        {
            "model.lora_rank": 4, "optimizer.state_dtype": "int8",
            "learn.kl_coef": 0.05, "optimizer.lr": 1e-3,
        },
        {
            "learn.algorithm": "gspo", "learn.updates_per_batch": 2, "evaluation.every_steps": 2,
            "control_metric": "pass_rate", "model.lora_rank": 4, "optimizer.lr": 1e-3,
            "learn.entropy_coef": 0.01, "learn.ewc_coef": 10.0, "optimizer.max_update_ratio": 1e-2,
        },
        {
            "learn.algorithm": "dpo", "learn.kl_schedule": (0.0, 0.05), "learn.ewc_coef": 10.0,
            "optimizer.eps": 1e-3,
        },
        {
            "learn.algorithm": "kl_cov", "learn.updates_per_batch": 2, "evaluation.every_steps": 2,
            "control_metric": "pass_rate", "learn.mask_high": 5.0, "learn.mask_level": "sequence",
            "learn.overlong_tokens": 32, "learn.mask_truncated": True, "rollout.redraws": 1,
            "learn.drop_without_signal": True, "optimizer.average_decay": 0.9,
            "learn.entropy_target": 0.3, "optimizer.skip_norm_factor": 3.0,
        },
    ],
    ids=[
        "ES on pass_rate", "GRPO with everything on", "LoRA, int8", "GSPO", "DPO",
        "KL-Cov and more",
    ],
)  # fmt: skip
def test_two_real_campaigns_run(changes, tmp_path):
    chain.run_chain(small(**changes), tmp_path)
    summaries = rundir.read_summaries(tmp_path)
    assert len(summaries) == 2
    records = rundir.read_records(tmp_path)
    # On-policy, the sampler's logprobs are the trainer's.
    learned = [r.metrics for r in records if "loss" in r.metrics]
    fresh = [m for m in learned if not m["rollout/staleness_steps"]]
    assert max(m["rollout/logprob_abs_diff"] for m in fresh) < 1e-4
    assert all(np.isfinite(value) for m in learned for value in m.values())
    for record in records:
        outcomes = [record.metrics[name] for name in SHARES if name in record.metrics]
        assert not outcomes or abs(sum(outcomes) - 1) < 1e-9
    documented = set(re.findall(r"`([^`]+)`", (ROOT / "docs/metrics.md").read_text()))
    measured = {name for record in records for name in record.metrics}
    assert {name for name in measured if not name.startswith("grader/")} <= documented


PULSE = """
    import sys
    from pathlib import Path
    from selfreg.loop import chain
    from tests import test_chain
    mesh = {"mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": 2}
    config = test_chain.small(**mesh, campaign_budget_steps=2)
    chain.run_chain(config, Path(sys.argv[1]))
"""


def test_two_campaigns_run_on_eight_devices_as_on_one(tmp_path, on_eight_devices):
    on_eight_devices(PULSE, tmp_path / "eight")
    chain.run_chain(small(campaign_budget_steps=2, **{"mesh.data": 1}), tmp_path / "one")
    eight, one = (rundir.read_records(tmp_path / name) for name in ("eight", "one"))
    # The first step draws the same tokens from the same weights, so its update is the same.
    assert eight[0].metrics["pass_rate"] == one[0].metrics["pass_rate"]
    assert eight[0].metrics["loss"] == pytest.approx(one[0].metrics["loss"], rel=1e-3)
    assert eight[0].metrics["grad_norm"] == pytest.approx(one[0].metrics["grad_norm"], rel=1e-3)
    assert len(eight) == len(one) == 6
    manifest = json.loads((tmp_path / "eight" / rundir.MANIFEST).read_text())
    assert manifest["starts"][0]["mesh"] == {"data": 2, "fsdp": 2, "tensor": 2}


def test_nothing_is_compiled_once_the_first_step_is_over(tmp_path):
    from selfreg.policy import xla

    xla.set_up()
    # A length that no other test has, because programs that other tests compiled would be reused.
    own = {"rollout.max_new_tokens": 40, "learn.row_tokens": (40,), "evaluation.every_steps": 2}
    compiled = []
    for run in (small(**own), small(**own, seed=8, condition="ES", **{"optimizer.lr": 2e-4})):
        folder = tmp_path / run.condition
        chain.run_chain(run, folder)
        compiled.append([r.metrics["compiles"] for r in rundir.read_records(folder)])
    first, second = compiled
    assert first[0] > 0
    assert sum(first[1:]) == 0
    assert sum(second) == 0  # the same shapes in the same process


def test_interrupting_says_how_to_go_on(tmp_path):
    command = [
        sys.executable, "-m", "selfreg.main", "--config=configs/tiny.py", f"--workdir={tmp_path}",
        "--config.problems.train=procedural:main", "--config.problems.held_out=",
        "--config.problems.panel_count=8", "--config.problems.report_count=8",
        "--config.grading.validate=False", "--config.rollout.max_new_tokens=32",
        "--config.learn.row_tokens=(32,)",
    ]  # fmt: skip
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not rundir.read_records(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command again to resume" in errors
    assert "Traceback" not in errors


def test_the_trainer_sees_one_device_here():
    assert jax.device_count() == 1
