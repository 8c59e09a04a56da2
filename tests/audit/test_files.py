"""Files of single trainers, W&B's own format, and damaged consoles."""

import json
import struct
import time

import numpy as np
import pytest

from selfreg.integrations.audit import read_logs
from selfreg.integrations.audit.console import Console
from selfreg.integrations.audit.wire import messages
from tests.audit import made
from tests.audit.made import lines, rates

VALUES = rates(np.full(30, 0.5))


def read_log(file, *arguments):
    (log,) = read_logs(file, *arguments)
    return log


def test_ms_swift_and_llama_factory(tmp_path):
    file = tmp_path / "logging.jsonl"
    rows = [
        {"loss": 0.1, "reward": v, "reward_std": 0.1, "kl": 0.01, "completions/mean_length": 300.0,
         "epoch": 0.1, "global_step/max_steps": f"{5 * i}/150", "elapsed_time": "1m 3s",
         "memory(GiB)": 12.5}
        for i, v in enumerate(VALUES, 1)
    ]  # fmt: skip
    file.write_text(lines([*rows, {"train_runtime": 100.0, "last_model_checkpoint": "x"}]))
    log = read_log(file)
    assert (log.column, log.clock) == ("reward", "'global_step/max_steps'")
    assert log.steps.tolist() == list(range(5, 155, 5))
    assert log.dropped == {"without reward": 1}

    file = tmp_path / "trainer_log.jsonl"
    rows = [
        {"current_steps": 5 * i, "total_steps": 150, "loss": 0.1, "reward": v, "lr": 1e-6,
         "epoch": 0.1 * i, "percentage": 3.3, "elapsed_time": "0:01:00"}
        for i, v in enumerate(VALUES, 1)
    ]  # fmt: skip
    file.write_text(lines(rows))
    assert read_log(file).steps.tolist() == list(range(5, 155, 5))


def test_tinker_logs_the_episodes_per_step(tmp_path, command):
    file = tmp_path / "metrics.jsonl"
    rows = [
        {"progress/batch": i, "env/all/reward/total": v, "env/all/total_episodes": 64,
         "optim/entropy": 0.5, "step": i}
        for i, v in enumerate(VALUES)
    ]  # fmt: skip
    file.write_text(lines(rows))
    done = command(file)
    assert "64 samples per value (the log's env/all/total_episodes)" in done.stdout


def test_episodes_of_a_monitor(tmp_path):
    file = tmp_path / "0.monitor.csv"
    rows = [f"{100 * v},20,{i}.5" for i, v in enumerate(VALUES)]
    file.write_text('#{"t_start": 1.5, "env_id": "x"}\nr,l,t\n' + "\n".join(rows))
    log = read_log(file)
    assert (log.format, log.column) == ("Stable-Baselines monitor", "r")
    assert log.values.tolist() == (100 * VALUES).tolist()


def wandb_file(records, block=32 * 1024):
    """Frame records as W&B does: whole, or split into parts at the end of a block."""
    data = bytearray(b":W&B" + struct.pack("<HB", 0xBEE1, 0))
    for record in records:
        first = True
        while True:
            left = block - len(data) % block
            if left < 7:
                data += b"\0" * left
                continue
            part, record = record[: left - 7], record[left - 7 :]
            kind = (1 if first else 4) if not record else (2 if first else 3)
            data += struct.pack("<IHB", 0, len(part), kind) + part
            first = False
            if not record:
                break
    return bytes(data)


def test_wandbs_own_file_over_several_blocks(tmp_path):
    Record = messages()["Record"]
    config = {"data": {"train_batch_size": 8}, "rollout": {"n": 8}}
    start = Record()
    start.run.run_id, start.run.display_name = "abc", "grpo-seed1"
    for key, value in config.items():
        start.run.config.update.add(key=key, value_json=json.dumps(value))
    records = [start.SerializeToString()]
    for i, value in enumerate(VALUES):
        record = Record()
        record.history.step.num = 10 * i
        for name, one in (("train/reward", float(value)), ("text", "x" * 5_000)):
            record.history.item.add(nested_key=[name], value_json=json.dumps(one))
        records.append(record.SerializeToString())
    file = tmp_path / "run-abc.wandb"
    file.write_bytes(wandb_file(records))
    log = read_log(file)
    assert (log.format, log.name) == ("W&B run file", "grpo-seed1")
    assert log.steps.tolist() == list(range(0, 300, 10))
    assert log.values.tolist() == VALUES.tolist()
    assert (log.facts["train_batch_size"], log.facts["rollout/n"]) == (8, 8)
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    assert len(read_log(file).values) == 29


def test_a_folder_gives_every_log_in_it_once(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text(
            lines({"step": i, "reward": v} for i, v in enumerate(VALUES))
        )
        (tmp_path / name / "config.json").write_text('{"lr": 0.1}')
        (tmp_path / name / "notes.txt").write_text("nothing of use\n")
    left_out = []
    logs = read_logs(tmp_path, left_out=left_out.append)
    assert [log.file.parent.name for log in logs] == ["a", "b"]
    assert len(left_out) == 4


def test_a_console_stored_without_its_returns(tmp_path):
    file = tmp_path / "output.log"
    file.write_text(
        "".join(
            f" {i}%|#   | {i}/30 [00:05<02:36,  5.39s/it]{{'loss': 0.1, 'reward': {v}}}"
            for i, v in enumerate(VALUES, 1)
        )
    )
    log = read_log(file)
    assert log.steps.tolist() == list(range(1, 31))
    assert log.values.tolist() == VALUES.tolist()


def test_each_bar_of_a_single_batch_is_a_step(tmp_path):
    file = tmp_path / "train.log"
    file.write_text(
        "".join(
            f"Train epoch [1/1]:   0%|    | 0/1 [00:00<?, ?it/s]\r"
            f"Train epoch [1/1]: 100%|####| 1/1 [00:01<00:00, 1.2s/it, act_loss=0.1, reward={v}]\n"
            for v in VALUES
        )
    )
    assert read_log(file).values.tolist() == VALUES.tolist()


def test_the_trainers_step_takes_precedence_over_wandbs(tmp_path):
    file = tmp_path / "history.jsonl"
    rows = [
        {"_step": i, "train/global_step": 10 * i, "train/reward": v} for i, v in enumerate(VALUES)
    ]
    file.write_text(lines(rows))
    assert read_log(file).steps[-1] == 290


def test_samples_beside_their_trainers_log_are_one_run(tmp_path):
    rng = np.random.default_rng(0)
    rewards = rng.integers(0, 2, (12, 32)).astype(float)
    rows = [{"step": i + 1, "reward": float(r.mean())} for i, r in enumerate(rewards)]
    (tmp_path / "metrics.jsonl").write_text(lines(rows))
    (tmp_path / "rollouts").mkdir()
    for i, own in enumerate(rewards):
        (tmp_path / "rollouts" / f"{i + 1}.jsonl").write_text(
            lines({"input": f"q{j // 8}", "output": "x", "score": float(r), "step": i + 1}
                  for j, r in enumerate(own))
        )  # fmt: skip
    log = read_log(tmp_path)
    assert log.file.name == "metrics.jsonl"
    assert (log.facts["samples a step"], log.facts["problems a step"]) == (32, 4)


CONSOLES = [
    made.verl, made.openrlhf, made.openrlhf_bars, made.slime, made.skyrl, made.skyrl_line,
    made.roll, made.nemo, made.prime, made.areal, made.stable_baselines, made.mlx, made.trl,
]  # fmt: skip


@pytest.mark.parametrize("print_it", CONSOLES)
def test_no_damaged_console_ends_in_an_error(print_it):
    rng = np.random.default_rng(0)
    whole = print_it(VALUES[:4])
    for _ in range(60):
        text = list(whole)
        for at in rng.integers(0, len(text), 8):
            text[at] = rng.choice(list("{}[]'\":|,=%\n\r\x1b \t0#/"))
        Console().read("".join(text)[: rng.integers(1, len(text))].splitlines())


@pytest.mark.parametrize(
    "line",
    ["a" * 500_000, "a " * 250_000, "{'a': " * 50_000, "x%|" * 100_000, "'" * 300_000,
     "reward" * 50_000 + "=", "step:1 - " * 50_000, "\x1b]" * 100_000, " " * 500_000 + "x",
     "1" * 500_000, "INFO " * 100_000, "| a " * 100_000, "[" * 300_000, "a 1 " * 2_000],
    ids=lambda line: line[:6].strip(),
)  # fmt: skip
def test_every_line_is_parsed_in_bounded_time(line):
    start = time.process_time()
    Console().read([line, line])
    assert time.process_time() - start < 20
