"""The engine against the real SGLang server on a CPU, from tests/sglang_cpu."""

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfreg.analysis.stats import panel_difference
from selfreg.loop import chain
from selfreg.policy.models.hf import save_folder
from selfreg.policy.models.policy import load_policy, random_params
from selfreg.policy.rollout.sglang_engine import Patience, SGLangEngine
from selfreg.policy.rollout.sglang_launch import Launched, LaunchError, LaunchSettings
from selfreg.policy.rollout.weight_sync import WeightSync
from selfreg.run import rundir
from selfreg.run.config import default
from selfreg.run.records import Request, Sampling
from selfreg.run.validate import resolve
from tests.sglang_cpu import server

PATIENCE = Patience(request_s=60.0, ready_s=240.0, sync_s=60.0)
SAMPLING = Sampling(0.7, 1.0, 0, 24, num_alter_tokens=2)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def sglang_python():
    try:
        return server.python()
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"no SGLang on this machine: {error}")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Make a folder with Qwen2's architecture: the tiny policy's weights, which earn rewards, and
    random biases.
    """
    policy, params = load_policy("tiny")
    config = dataclasses.replace(policy.config, qkv_bias=True)
    draw, blocks = np.random.default_rng(0), random_params(config, 0)["blocks"]
    biases = {
        name: jnp.asarray(draw.normal(0, 0.1, weight.shape), jnp.float32)
        for name, weight in blocks.items()
        if name.endswith("_bias")
    }
    assert len(biases) == 3
    folder = tmp_path_factory.mktemp("model") / "qwen2"
    weights = params | {"blocks": params["blocks"] | biases}
    save_folder(folder, config, weights, policy.tokenizer, stop_ids=policy.stop_ids)
    return str(folder)


@pytest.fixture(scope="module")
def real(tmp_path_factory, model):
    """Return the policy, its weights, the engine, and the server that the engine launched."""
    folder = tmp_path_factory.mktemp("sglang")
    settings = LaunchSettings(
        sglang_python(), model, "float32", free_port(), 1, 0.0, "", server.OPTIONS,
        server.ENVIRONMENT, folder / "server.log",
    )  # fmt: skip
    policy, params = load_policy(model)
    assert policy.config.qkv_bias
    launched = Launched(settings)
    launched.start()
    sync = WeightSync(policy.config, dtype="float32", parent=Path("/dev/shm"))
    try:
        engine = SGLangEngine(policy, [launched.url], sync, patience=PATIENCE, launched=[launched])
    except BaseException:
        launched.stop()
        raise
    yield policy, params, engine, launched
    engine.close()


def requests(policy, prompts=4, group=4, seed=0):
    texts = ["def add(a, b):", "x = 1", "Write a function f", "return"][:prompts]
    return [
        Request(
            np.array(policy.tokenizer.encode(text), np.int32),
            np.arange(group, dtype=np.uint32) + 100 * seed,
        )
        for text in texts
    ]


def check_parity(policy, params, drawn, width=256):
    """Each drawn token's logprob, and each alternative's, is the trainer's at temperature 0.7."""
    rollouts = [r for group in drawn for r in group]
    ids = np.zeros((len(rollouts), width), np.int32)
    for row, rollout in zip(ids, rollouts, strict=True):
        whole = np.concatenate([rollout.prompt_ids, rollout.completion_ids])
        row[: len(whole)] = whole

    @jax.jit
    def score(params, ids):
        decoder = policy.decoder(params)
        lengths = jnp.full(len(ids), width)
        hidden = decoder(ids, lengths, jnp.dtype("float32")).hidden
        return jax.nn.log_softmax(hidden @ decoder.head_weight.T / 0.7)

    scores = np.asarray(score(params, ids))
    for row, rollout in zip(scores, rollouts, strict=True):
        count, start = len(rollout.completion_ids), len(rollout.prompt_ids) - 1
        own = row[start : start + count]
        np.testing.assert_allclose(
            rollout.logprobs, own[np.arange(count), rollout.completion_ids], atol=1e-4
        )
        wanted = own[np.arange(count)[:, None], rollout.alter_ids]
        np.testing.assert_allclose(rollout.alter_logprobs, wanted, atol=1e-3, rtol=1e-4)
    assert sum(len(r.completion_ids) for r in rollouts) > 50


def greedy(engine, policy):
    drawn = engine.generate(requests(policy, group=1), Sampling(0.0, 1.0, 0, 16))
    return [group[0].completion_ids.tolist() for group in drawn]


def test_logprobs_equal_the_trainers_before_and_after_new_weights(real):
    policy, params, engine, _ = real
    engine.load_params(params, "0.0")
    check_parity(policy, params, engine.generate(requests(policy), SAMPLING))
    first = greedy(engine, policy)
    other = jax.tree.map(lambda a: a * 1.3, params)
    engine.load_params(other, "0.1")
    drawn = engine.generate(requests(policy), SAMPLING)
    check_parity(policy, other, drawn)
    assert {r.versions for group in drawn for r in group} == {("0.1",)}
    assert greedy(engine, policy) != first
    engine.load_params(params, "0.2")
    assert greedy(engine, policy) == first


def small(**changes):
    config = default()
    config.update_from_flattened_dict(
        {
            "campaigns": 2, "campaign_budget_steps": 2, "problems.panel_count": 16,
            "problems.report_count": 4, "evaluation.every_steps": 2, "rollout.group_size": 8,
            "evaluation.panel_samples": 4, "evaluation.report_samples": 2, "optimizer.lr": 1e-4,
            "condition": "A0", "rollout.max_logprob_difference": 1e-3, "learn.row_tokens": (64,),
            "rollout.max_new_tokens": 64, "problems.train_count": 64,
            **changes,
        }
    )  # fmt: skip
    return resolve(config)


def test_the_main_job_on_sglang_earns_what_it_earns_in_process(model, tmp_path):
    """Run two campaigns with a server that the run launches, and with the run's own engine."""
    launch = {
        "rollout.engine": "sglang", "sglang.launch": True, "sglang.python": sglang_python(),
        "sglang.port": free_port(), "sglang.options": server.OPTIONS,
        "sglang.environment": server.ENVIRONMENT,
    }  # fmt: skip
    shared = {
        "model.path": model, "problems.report_count": 32, "evaluation.report_samples": 8,
    }  # fmt: skip
    chain.run_chain(small(**shared, **launch), tmp_path / "sglang")
    chain.run_chain(small(**shared), tmp_path / "jax")
    scores = {}
    for name in ("sglang", "jax"):
        records = rundir.read_records(tmp_path / name)
        measured = [r.metrics for r in records if "panel_pass_at_1" in r.metrics]
        scores[name] = [(m["panel_pass_at_1"], m["panel_pass_at_1_se"]) for m in measured]
        assert all(
            m["rollout/logprob_abs_diff"] < 1e-4 for r in records if "loss" in (m := r.metrics)
        )
    assert len(scores["jax"]) == len(scores["sglang"]) == 4
    for (ours, ours_se), (theirs, theirs_se) in zip(*scores.values(), strict=True):
        assert theirs > 0.1  # not its usual .5, because transformers tokenizes by Qwen2's rules
        assert abs(ours - theirs) < 4 * np.hypot(ours_se, theirs_se)
    # Compare paired by problem. The panels' own errors are too wide to tell this policy from one
    # that solves nothing.
    summaries = [rundir.read_summaries(tmp_path / name) for name in ("sglang", "jax")]
    for ours, theirs in zip(*summaries, strict=True):
        difference = panel_difference(ours.scores["end"], theirs.scores["end"])
        assert abs(difference.mean) < 4 * difference.standard_error
        assert ours.scores["end"].pass_at_1 > 0.02
    synced = [r.metrics for r in rundir.read_records(tmp_path / "sglang")]
    assert all(m["sync/bytes"] > 3e6 and m["sync/load_s"] > 0 for m in synced)
    log = tmp_path / "sglang" / f"sglang_{launch['sglang.port']}.log"
    assert "The server is fired up" in log.read_text()
    command = ["pgrep", "-f", f"launch_server.*--port {launch['sglang.port']}"]
    assert subprocess.run(command, capture_output=True, check=False).stdout == b""


def test_a_server_killed_in_the_middle_is_started_again(real):
    policy, params, engine, launched = real
    engine.load_params(params, "1.0")
    wanted = greedy(engine, policy)
    victim = subprocess.run(
        ["pgrep", "-f", f"launch_server.*--port {launched.settings.port}"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    timer = threading.Timer(0.3, lambda: [os.kill(int(pid), signal.SIGKILL) for pid in victim])
    timer.start()
    long = Sampling(0.7, 1.0, 0, 200, num_alter_tokens=2)
    drawn = engine.generate(requests(policy, group=24), long)
    timer.join()
    assert [len(group) for group in drawn] == [24] * 4
    # It was killed while drawing, or the next call finds it gone.
    assert greedy(engine, policy) == wanted
    assert engine.take_metrics()["rollout/server_recoveries"] >= 1
    check_parity(policy, params, drawn)


def test_a_taken_port_and_a_wrong_folder_are_said(real, tmp_path):
    settings = real[3].settings
    with pytest.raises(LaunchError, match="is taken"):
        Launched(settings).start()
    wrong = dataclasses.replace(
        settings, model="/nowhere", port=free_port(), log=tmp_path / "server.log"
    )
    launched = Launched(wrong)
    launched.start()
    launched._process.wait(120)
    with pytest.raises(LaunchError, match="The last lines of"):
        launched.check()
    launched.stop()


def test_a_killed_trainer_leaves_no_server(tmp_path):
    """The supervisor ends all that it started, even a grandchild in another session."""
    marker = f"sleep {3600 + os.getpid() % 1000}.5"
    script = (
        "import subprocess, sys, time\n"
        f'code = "import os, subprocess; os.setsid(); subprocess.run({marker.split()!r})"\n'
        "from selfreg.policy.rollout import sglang_launch as s\n"
        "subprocess.Popen([sys.executable, '-S', str(s._SUPERVISOR), sys.executable, '-c', code],"
        " stdin=subprocess.PIPE, start_new_session=True)\n"
        "print('up', flush=True); time.sleep(60)\n"
    )
    trainer = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    trainer.stdout.readline()

    def running():
        return subprocess.run(["pgrep", "-f", marker], capture_output=True, check=False).stdout

    for _ in range(100):
        if running():
            break
        time.sleep(0.1)
    assert running()
    trainer.kill()
    trainer.wait()
    for _ in range(150):
        if not running():
            break
        time.sleep(0.1)
    assert not running()
