"""Configs: every file builds, and impossible values are refused at once, by name."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from selfreg.loop.chain import run_chain
from selfreg.run.algorithm import names
from selfreg.run.config import KEYS, default
from selfreg.run.runlog import check_same_config
from selfreg.run.validate import resolve

ROOT = Path(__file__).parent.parent


FILES = sorted({*(ROOT / "configs").glob("*.py")} - {ROOT / "configs/paper.py"})


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_every_config_builds(file):
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert "python -m selfreg.main" in module.__doc__
    resolved = resolve(module.get_config())
    assert resolved.keys() == default().keys()


@pytest.mark.parametrize(
    ("algorithm", "centering", "std"),
    [
        ("reinforce", False, False),
        ("rloo", True, False),
        ("grpo", True, True),
        ("dr_grpo", True, False),
        ("ppo", True, True),
        ("gspo", True, True),
        ("dpo", False, False),
    ],
)
def test_an_algorithm_sets_its_flags(algorithm, centering, std):
    config = default()
    config.learn.algorithm = algorithm
    learn = resolve(config).learn
    assert (learn.use_score_centering, learn.use_std_normalization) == (centering, std)


def test_a_flag_that_is_set_wins_over_the_algorithm():
    config = default()
    config.learn.algorithm, config.learn.use_std_normalization = "grpo", False
    assert not resolve(config).learn.use_std_normalization
    config.learn.algorithm, config.learn.clip_high = "ppo", 0.28  # clip-higher
    learn = resolve(config).learn
    assert (learn.clip_low, learn.clip_high) == (0.2, 0.28)
    assert learn.use_importance_sampling_ratio


def test_algorithms_differ_in_what_their_papers_do():
    def of(algorithm):
        config = default()
        config.learn.algorithm = algorithm
        return resolve(config).learn

    assert of("rloo").use_leave_one_out
    assert not of("grpo").use_leave_one_out
    assert (of("gspo").ratio_level, of("ppo").ratio_level) == ("sequence", "token")
    assert (of("gspo").clip_low, of("gspo").clip_high) == (3e-4, 4e-4)
    assert of("gspo").token_aggregation == "sequence_mean"
    assert (of("dpo").token_aggregation, of("grpo").token_aggregation) == ("sum", "token_mean")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"learn.clip_low": 0.2}, "clip_low=0.2 .* learn.use_importance_sampling_ratio=True"),
        (
            {"learn.algorithm": "ppo", "learn.importance_ratio_cap": 2.0},
            "clip_low=0.2 .* learn.importance_ratio_cap=0",
        ),
        ({"learn.ratio_level": "sequence"}, "ratio_level='sequence' .* must be token unless"),
        (
            {"learn.use_leave_one_out": True},
            "one_out=True .* unless learn.use_score_centering=True",
        ),
        (
            {"learn.algorithm": "dpo", "learn.use_std_normalization": True},
            "std_normalization=True .*algorithm='dpo' reads no other",
        ),
        ({"learn.algorithm": "dpo", "rollout.group_size": 1}, "group_size=1 .* at least 2"),
        ({"learn.updates_per_batch": 2}, "evaluation.every_steps=5 .* a multiple of .*batch=2"),
        (
            {"learn.updates_per_batch": 5, "checkpoint.every_steps": 12},
            "checkpoint.every_steps=12 .* a multiple of",
        ),
        (
            {"learn.updates_per_batch": 5, "rollout.overlap": True},
            "overlap=True .*learn.updates_per_batch is above 1",
        ),
    ],
)
def test_keys_that_do_not_go_together_are_refused(changes, words):
    config = default()
    config.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=words):
        resolve(config)


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("condition", "A9", "one of A0, A1"),
        ("control_metric", "reward", "pass_rate, panel_pass_at_1"),
        ("campaigns", 0, "at least 1"),
        ("rollout.temperature", 0.0, "above 0"),
        ("rollout.top_p", 1.5, "in (0, 1]"),
        ("rollout.group_size", 0, "at least 1"),
        ("rollout.max_sequences", 8, "at least 16"),
        ("learn.algorithm", "a2c", "a .py file, or one of " + ", ".join(names())),
        ("learn.clip_low", 1.0, "in [0, 1)"),
        ("learn.kl_schedule", (0.01, -0.02), "numbers from 0"),
        ("learn.kl_schedule", ("high",), "numbers from 0"),
        ("learn.dpo_beta", 0.0, "above 0"),
        ("learn.updates_per_batch", 0, "at least 1"),
        ("learn.row_tokens", (64, 95), "the last at least rollout.max_new_tokens=96"),
        ("learn.row_tokens", (144, 96), "ascending"),
        ("learn.row_tokens", (0, 96), "above 0"),
        ("learn.microbatch_rows", -1, "at least 0"),
        ("optimizer.lr", -1.0, "above 0"),
        ("optimizer.b2", 1.0, "in [0, 1)"),
        ("optimizer.state_dtype", "int4", "float32, bfloat16, int8"),
        ("model.lora_rank", -1, "at least 0"),
        ("model.lora_alpha", 0.0, "above 0"),
        ("mesh.data", 0, "-1"),
        ("rollout.engine", "vllm", "jax, sglang"),
        ("rollout.engine", "sglang", "either sglang.urls or sglang.launch=True"),
        ("sglang.gpus", "0;1", "one list for each of sglang.servers=1"),
        ("learn.importance_ratio_cap", 2.0, "learn.use_importance_sampling_ratio=True"),
    ],
)
def test_impossible_values_are_refused(key, value, allowed):
    config = default()
    config.update_from_flattened_dict({key: value})
    with pytest.raises(ValueError) as error:
        resolve(config)
    for words in (f"config.{key}={value!r}", allowed):
        assert words in str(error.value)


def test_a_run_folder_that_lacks_newer_keys_is_the_same_run(tmp_path):
    config = default()
    old = json.loads(json.dumps(resolve(config).to_dict()))
    del old["rollout"]["redraws"], old["learn"]["dual_clip"], old["learn"]["options"]
    (tmp_path / "config.json").write_text(json.dumps(old))
    check_same_config(tmp_path, resolve(config).to_dict())
    for key, value, words in (
        ("rollout.redraws", 1, "rollout.redraws: 0 there, 1 now"),
        ("learn.mask_high", 2.0, "learn.mask_high: 0.0 there, 2.0 now"),
    ):
        config = default()
        config.update_from_flattened_dict({key: value})
        with pytest.raises(ValueError, match=words):
            check_same_config(tmp_path, resolve(config).to_dict())


def test_servers_are_named_or_launched_and_not_both():
    config = default()
    config.rollout.engine, config.sglang.urls = "sglang", "http://here:1"
    assert resolve(config).sglang.urls
    config.sglang.launch = True
    with pytest.raises(ValueError, match="either"):
        resolve(config)
    config.rollout.engine, config.sglang.urls = "jax", ""
    with pytest.raises(ValueError, match="jax with neither"):
        resolve(config)


def test_servers_in_turns_do_not_overlap():
    config = default()
    config.rollout.overlap = config.sglang.colocated = True
    with pytest.raises(ValueError, match="take turns"):
        resolve(config)


def test_resolving_leaves_the_config_as_it_was():
    config = default()
    resolve(config)
    assert config.learn.algorithm is config.learn.use_score_centering is None


def test_flags_left_open_are_independent():
    config = default()
    config.learn.use_score_centering = True
    assert not resolve(config).learn.use_std_normalization


def test_help_lists_every_key():
    run = subprocess.run(
        [sys.executable, "-m", "selfreg.main", "--help"],
        capture_output=True, text=True, cwd=ROOT, check=True,
    )  # fmt: skip
    assert all(f"--config.{name}=" in run.stdout for name in KEYS)


def test_centering_needs_a_group():
    config = default()
    config.learn.algorithm, config.rollout.group_size = "grpo", 1
    with pytest.raises(ValueError, match="group_size"):
        resolve(config)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "--config is missing"),
        (["--config=configs/none.py"], "configs/none.py"),
        (["--config=configs/tiny.py", "--config.optimizer.learning_rate=1"], "optimizer.lr"),
        (["--config=configs/tiny.py", "--config.sed=1"], "did you mean seed?"),
        (["--config=configs/tiny.py", "--config.campaigns=two"], "two"),
        (["--config=configs/tiny.py", "--config.condition=A9"], "config.condition='A9'"),
        (["--config=configs/tiny.py", "--config.mesh.data=3"], "there are 1"),
        (["--confg=configs/tiny.py"], "confg"),
    ],
)
def test_mistakes_end_in_one_line_and_exit_code_2(flags, words, tmp_path):
    command = [sys.executable, "-m", "selfreg.main", *flags, f"--workdir={tmp_path / 'run'}"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert run.returncode == 2
    assert words in run.stderr
    assert "Traceback" not in run.stderr
    assert len(run.stderr.strip().splitlines()) <= 2


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("model.lora_rank", 65, "at most 64"),
        ("model.path", "nowhere", "config.model.path='nowhere'"),
        ("problems.train", "procedural:odd", "procedural:odd"),
        ("problems.held_out", "procedural:train", "held out"),
        ("rollout.max_prompt_tokens", 9, "max_prompt_tokens=9"),
        ("model.prompt", "chat", "chat template"),
    ],
)
def test_what_only_models_and_problems_can_tell_is_refused_before_a_run_begins(
    key, value, words, tmp_path
):
    config = default()
    config.update_from_flattened_dict({key: value})
    with pytest.raises(ValueError, match=words):
        run_chain(resolve(config), tmp_path / "run")
    assert not (tmp_path / "run").exists()
