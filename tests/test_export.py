"""The export command: transformers opens a trained checkpoint and computes the same."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from selfreg.loop import chain
from selfreg.policy.mesh import make_mesh
from selfreg.policy.models.policy import abstract_params, load_policy
from selfreg.policy.rollout.jax_engine import JaxEngine
from selfreg.run import rundir
from selfreg.run.checkpoint import restore
from selfreg.run.config import default
from selfreg.run.records import Checkpoint, Request, Sampling
from selfreg.run.validate import resolve

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Make a run of two large updates, so that the effect of training is visible."""
    config = default()
    config.update_from_flattened_dict(
        {
            "campaigns": 1, "campaign_budget_steps": 2, "problems.panel_count": 2,
            "problems.report_count": 2, "evaluation.panel_samples": 2, "rollout.group_size": 4,
            "evaluation.report_samples": 2, "rollout.max_new_tokens": 32, "optimizer.lr": 1e-2,
            "learn.reward_coding": "minus_one_one", "grading.validate": False,
        }
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("run")
    chain.run_chain(resolve(config), folder)
    return folder


def export(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "selfreg.export", *map(str, arguments)],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


def test_what_was_trained_here_generates_the_same_in_transformers(run, tmp_path):
    out = tmp_path / "deep" / "m"
    done = export(f"--run={run}", f"--out={out}", "--campaign=0", "--step=2")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{out}: campaign 0, step 2, float32\n"
    policy, initial = load_policy("tiny")
    like = {"params": abstract_params(policy)}
    params = restore(run / rundir.CHECKPOINTS, Checkpoint(0, 2), like)["params"]
    assert not np.array_equal(params["blocks"]["q"], initial["blocks"]["q"])
    jax.tree.map(np.testing.assert_array_equal, load_policy(str(out))[1], params)

    model = AutoModelForCausalLM.from_pretrained(out).eval()
    tokenizer = AutoTokenizer.from_pretrained(out)
    engine = JaxEngine(policy, make_mesh(-1, 1, 1), dtype="float32", max_sequences=8)
    engine.load_params(params)
    texts = ["# sort, then give back the list\n", "# keep the even numbers, then return the sum\n"]
    prompts = [np.array(tokenizer.encode(text), np.int32) for text in texts]
    requests = [Request(prompt, np.zeros(1, np.uint32)) for prompt in prompts]
    drawn = engine.generate(requests, Sampling(0.0, 1.0, 0, 40))
    for prompt, (rollout,) in zip(prompts, drawn, strict=True):
        wanted = model.generate(
            torch.tensor(prompt[None]).long(), do_sample=False, max_new_tokens=40
        )
        assert rollout.completion_ids.tolist() == wanted[0, len(prompt) :].tolist()


def test_what_the_control_kept_is_exported_unless_another_is_named(run, tmp_path):
    done = export(f"--run={run}", f"--out={tmp_path / 'm'}", "--dtype=bfloat16")
    assert done.returncode == 0, done.stderr
    assert "campaign 0, step 2, bfloat16" in done.stdout
    assert json.loads((tmp_path / "m" / "config.json").read_text())["dtype"] == "bfloat16"
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "m").dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "--checkpoint=RUN:PLACE (or --run) and --out are needed"),
        (["--run=nowhere", "--out=OUT"], "nowhere is no run folder, it has no config.json"),
        (["--run=RUN", "--out=RUN"], "holds something already"),
        (["--run=RUN", "--out=OUT", "--campaign=3"], "campaigns 0 to 0 have finished"),
        (["--run=RUN", "--out=OUT", "--step=1"], "--step=1 of which campaign? add --campaign"),
        (
            ["--run=RUN", "--out=OUT", "--campaign=0", "--step=1", "--which=end"],
            "--step and --which both name a step",
        ),
        (["--run=RUN", "--out=OUT", "--campaign=0", "--step=9"], "of campaign 0 it keeps 0.0, "),
        (["--run=RUN", "--out=OUT", "--which=best"], "one of <kept|peak|end>"),
        (
            ["--run=RUN", "--out=OUT", "--whcih=end"],
            "no flag --whcih; did you mean --which?",
        ),
        (["--checkpoint=RUN:best", "--out=OUT"], "names no checkpoint: write RUN:PLACE"),
        (["--checkpoint=RUN:1:end", "--out=OUT"], "campaigns 0 to 0 have finished"),
        (["--checkpoint=RUN:end", "--run=RUN", "--out=OUT"], "both name a checkpoint"),
        (["RUN"], "is no flag"),
    ],
)
def test_a_mistake_is_one_line(run, tmp_path, flags, words):
    places = {"RUN": str(run), "OUT": str(tmp_path / "m")}
    done = export(
        *(flag.replace("RUN", places["RUN"]).replace("OUT", places["OUT"]) for flag in flags)
    )
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "m").exists()


def test_the_initial_policy_is_not_exported(run, tmp_path):
    (row,) = rundir.read_lines(run / rundir.CAMPAIGNS)
    (tmp_path / rundir.CONFIG).write_text((run / rundir.CONFIG).read_text())
    rundir.append_line(tmp_path / rundir.CAMPAIGNS, row | {"kept": None})
    done = export(f"--run={tmp_path}", f"--out={tmp_path / 'm'}")
    assert done.returncode == 2
    assert "campaign 0 handed on the chain's initial policy" in done.stderr


def test_help_shows_how_to_call_it():
    done = export("--help")
    assert done.returncode == 0
    for words in ("python -m selfreg.export --checkpoint=", "--which", "--dtype", "kept"):
        assert words in done.stdout
