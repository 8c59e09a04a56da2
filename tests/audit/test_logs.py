import bz2
import contextlib
import gzip
import json
import lzma

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tensorboardX import SummaryWriter

from selfreg.integrations.audit import read_logs
from tests.audit.made import lines, rates

VALUES = rates(np.full(30, 0.5))
ROWS = [{"step": i, "reward": float(v), "kl": 0.25} for i, v in enumerate(VALUES)]
JSONL = lines(ROWS).encode()
CSV = "step,reward,kl\n" + "".join(f"{r['step']},{r['reward']},0.25\n" for r in ROWS)
MARKS = [[1e9 + i, i, float(v)] for i, v in enumerate(VALUES)]
MARKED = "\n".join(",".join(map(str, mark)) for mark in MARKS)


def read_log(file, *arguments):
    (log,) = read_logs(file, *arguments)
    return log


def test_a_real_trainer_state(trl_state):
    log = read_log(trl_state)
    assert (log.format, log.column) == ("trainer state", "reward")
    assert log.steps.tolist() == list(range(1, 31))  # the summary of the training has no reward
    assert log.values[:4].tolist() == [0.28125, 0.5, 0.5, 0.46875]
    assert {name: one.column for name, one in log.indicators.items()} == {
        "entropy": "entropy",
        "KL": "kl",
        "gradient norm": "grad_norm",
        "length": "completions/mean_length",
        "cut at the limit": "completions/clipped_ratio",
    }
    assert log.indicators["entropy"].values[3] == 3.1247994899749756


def test_the_longest_state_of_a_folder_is_used(trl_state, tmp_path):
    state = json.loads(trl_state.read_text())
    for upto in (9, 20, 100):
        folder = tmp_path / f"checkpoint-{upto}"
        folder.mkdir()
        cut = {**state, "log_history": state["log_history"][:upto]}
        (folder / "trainer_state.json").write_text(json.dumps(cut))
    assert len(read_log(tmp_path).values) == 30
    assert len(read_log(tmp_path / "checkpoint-20").values) == 20


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl.gz", gzip.compress(JSONL)),
        ("a.jsonl.bz2", bz2.compress(JSONL)),
        ("a.jsonl.xz", lzma.compress(JSONL)),
        ("a.jsonl.zst", pa.compress(JSONL, codec="zstd", asbytes=True)),
        ("compressed under a plain name.jsonl", gzip.compress(JSONL)),
        ("a.jsonl", JSONL.decode().encode("utf-16")),
        ("a.csv", CSV.encode("utf-16-le")),
        ("a.jsonl", b"\xef\xbb\xbf" + JSONL),
        ("a.jsonl", JSONL.replace(b'"kl"', b'"k\xffl"', 1)),
        ("any name", JSONL),
        ("a.log", JSONL),
        ("A.CSV", CSV.encode()),
        ("a.tsv", CSV.replace(",", "\t").encode()),
        ("a.dat", CSV.replace(",", "\t").encode()),
        ("a.csv", CSV.replace(",", ";").encode()),
        ("a.csv", CSV.replace(",", ";").replace(".", ",").encode()),
        ("a.csv", CSV.replace("\n", "\r\n").encode()),
        ("a.csv", CSV.replace("\n", "\r").encode()),
        ("a.csv", b"# a comment\n" + CSV.encode()),
        ("a.json", json.dumps(ROWS).encode()),
        ("a.json", json.dumps(ROWS, indent=1).encode()),
        ("a.json", json.dumps({"config": {"x": 1}, "history": ROWS}).encode()),
        ("a.json", json.dumps({k: [r[k] for r in ROWS] for k in ROWS[0]}).encode()),
        (
            "a.json",
            json.dumps({k: {str(i): r[k] for i, r in enumerate(ROWS)} for k in ROWS[0]}).encode(),
        ),
        ("run-x-tag-reward.json", json.dumps(MARKS).encode()),
        ("a.csv", f"Wall time,Step,Value\n{MARKED}".encode()),
        ("a.log", "".join(f"{{'step': {r['step']}, 'reward': np.float64({r['reward']}), "
                          f"'kl': tensor(0.25, device='cuda:0')}}\n" for r in ROWS).encode()),
    ],
)  # fmt: skip
def test_forms_and_encodings(tmp_path, name, content):
    file = tmp_path / name
    file.write_bytes(content)
    log = read_log(file)
    assert log.steps.tolist() == list(range(30))
    assert log.values.tolist() == VALUES.tolist()
    if log.column == "reward":
        assert set(log.indicators["KL"].values) == {0.25}


def test_a_truncated_compressed_file_yields_the_text_before_the_cut(tmp_path):
    file = tmp_path / "a.jsonl.gz"
    rows = [{"step": i, "reward": v} for i, v in enumerate(np.random.default_rng(0).random(9_000))]
    whole = gzip.compress(lines(rows).encode())
    file.write_bytes(whole[: len(whole) // 2])
    log = read_log(file)
    assert 2_000 < len(log.values) < 9_000
    assert any("cut or damaged" in note for note in log.notes)


def test_parquet(tmp_path):
    file = tmp_path / "metrics.parquet"
    pq.write_table(pa.table({"step": range(30), "reward": VALUES, "note": ["x"] * 30}), file)
    assert read_log(file).values.tolist() == VALUES.tolist()


def test_verls_file_logger_and_a_line_cut_short(tmp_path):
    file = tmp_path / "run.jsonl"
    rows = [{"step": s, "data": {"critic/score/mean": s / 10, "actor/entropy": 1}} for s in (2, 1)]
    file.write_text("\n".join(map(json.dumps, rows)) + '\n{"step": 3, "data": {"cri')
    log = read_log(file)
    assert (log.column, log.steps.tolist()) == ("critic/score/mean", [1, 2])
    assert log.values.tolist() == [0.1, 0.2]
    assert log.indicators["entropy"].column == "actor/entropy"
    assert log.dropped == {"lines that are not JSON objects": 1}
    assert "its last line is cut off" in log.notes


def test_a_resumed_run_replaces_the_steps_that_it_repeats(tmp_path):
    file = tmp_path / "history.jsonl"
    rows = [(1, 0.1), (2, 0.2), (3, 0.3), (2, 0.7), (3, 0.8), (4, 0.9)]
    file.write_text("".join(json.dumps({"_step": s, "train/reward": r}) + "\n" for s, r in rows))
    log = read_log(file)
    assert log.steps.tolist() == [1, 2, 3, 4]
    assert log.values.tolist() == [0.1, 0.7, 0.8, 0.9]
    assert log.repeated == 2


def test_steps_that_a_restart_abandoned_do_not_count(tmp_path):
    file = tmp_path / "history.jsonl"
    rows = [(s, 0.5) for s in range(1, 11)] + [(s, 0.25) for s in range(4, 7)]
    file.write_text(lines({"step": s, "reward": r} for s, r in rows))
    log = read_log(file)
    assert log.steps.tolist() == [1, 2, 3, 4, 5, 6]
    assert log.values[-1] == 0.25


def test_a_wandb_export_of_one_run_and_of_several(tmp_path):
    file = tmp_path / "wandb_export.csv"
    file.write_text(
        '"Step","run-1 - train/reward","run-1 - train/reward__MIN","run-1 - train/kl"\n'
        '"0","0.25","0.25","0.0"\n"1","","",""\n"2","0.5","0.5","0.1"\n'
    )
    log = read_log(file)
    assert (log.format, log.name, log.column) == ("W&B CSV", "run-1", "train/reward")
    assert (log.steps.tolist(), log.values.tolist()) == ([0, 2], [0.25, 0.5])
    assert log.indicators["KL"].values.tolist() == [0.0, 0.1]

    file.write_text(
        '"Step","a - b - train/reward","c - train/reward","c - train/kl"\n"0","0.25","0.5","1"\n'
    )
    first, second = read_logs(file)
    assert (first.name, first.values.tolist(), dict(first.indicators)) == ("a - b", [0.25], {})
    assert (second.name, second.values.tolist()) == ("c", [0.5])
    assert read_log(file, "c - train/reward").values.tolist() == [0.5]
    assert len(read_logs(file, "train/reward")) == 2


def test_a_dash_in_a_name_does_not_make_a_wandb_export(tmp_path):
    file = tmp_path / "mine.csv"
    file.write_text("step,reward,loss - a,loss - b\n0,0.5,1,2\n1,0.25,1,2\n")
    assert read_log(file).values.tolist() == [0.5, 0.25]
    assert read_log(file, "reward").values.tolist() == [0.5, 0.25]


@pytest.mark.parametrize("name", ["run", "seed", "run_id", "whatever"])
def test_runs_in_one_long_table(tmp_path, name):
    file = tmp_path / "long.csv"
    label = "{}" if name == "seed" else "run-{}"
    rows = [f"{label.format(r)},{s},{r / 4}\n" for s in range(5) for r in (1, 2, 3)]
    file.write_text(f"{name},step,reward\n" + "".join(rows))
    logs = read_logs(file)
    assert [log.values.tolist() for log in logs] == [[r / 4] * 5 for r in (1, 2, 3)]
    assert all(any(f"{name!r}" in note for note in log.notes) for log in logs)


def test_any_column_of_any_table(tmp_path):
    file = tmp_path / "mine.csv"
    file.write_text("it,acc,name\n10,0.5,x\n5,0.25,y\n")
    log = read_log(file, "acc", "it")
    assert (log.steps.tolist(), log.values.tolist()) == ([5, 10], [0.25, 0.5])
    file.write_text("when,acc\n10,0.5\n5,0.25\n")
    log = read_log(file, "acc")
    assert (log.steps.tolist(), log.clock) == ([0, 1], "rows, counted")


def test_real_event_files(tmp_path):
    with SummaryWriter(str(tmp_path / "tb")) as writer:
        for step in range(5):
            writer.add_scalar("train/reward", step / 10, step)
            writer.add_text("note", "not a number", step)
            writer.add_histogram("weights", np.arange(5), step)
    with SummaryWriter(str(tmp_path / "tb"), filename_suffix=".resumed") as writer:
        writer.add_scalar("train/reward", 1.0, 4, walltime=2e9)
        writer.add_scalar("train/kl", 0.5, 4, walltime=2e9)
    log = read_log(tmp_path / "tb")
    assert (log.format, log.column) == ("TensorBoard", "train/reward")
    assert log.steps.tolist() == [0, 1, 2, 3, 4]
    assert log.values == pytest.approx([0, 0.1, 0.2, 0.3, 1.0])
    assert (log.indicators["KL"].steps.tolist(), log.indicators["KL"].values.tolist()) == (
        [4],
        [0.5],
    )


def test_an_event_file_cut_short_and_a_damaged_one(tmp_path):
    with SummaryWriter(str(tmp_path)) as writer:
        for step in range(5):
            writer.add_scalar("reward", step / 10, step)
    (file,) = tmp_path.glob("*tfevents*")
    whole = file.read_bytes()
    file.write_bytes(whole[:-7])
    assert read_log(file).steps.tolist() == [0, 1, 2, 3]
    file.write_bytes(whole[:-7] + bytes([whole[-7] ^ 1]) + whole[-6:])
    with pytest.raises(ValueError, match="damaged"):
        read_log(file)


def test_samples_of_verl_of_trl_of_tinker_and_of_nemo(tmp_path):
    """A dump shows the completions and problems per step, so that no flag is needed."""
    rng = np.random.default_rng(0)
    rewards = rng.integers(0, 2, (12, 4, 8)).astype(float)
    steps = [(s, p, g) for s in range(12) for p in range(4) for g in range(8)]
    for s in range(12):
        own = [(p, rewards[s, p, g]) for p in range(4) for g in range(8)]
        (tmp_path / "verl").mkdir(exist_ok=True)
        (tmp_path / "verl" / f"{s + 1}.jsonl").write_text(
            lines({"input": f"q{p}" * 60, "output": "text", "gts": "1", "score": r, "step": s + 1}
                  for p, r in own)
        )  # fmt: skip
        folder = tmp_path / "tinker" / f"iteration_{s:06d}"
        folder.mkdir(parents=True)
        (folder / "train_rollout_summaries.jsonl").write_text(
            lines({"schema_version": 1, "split": "train", "iteration": s, "group_idx": p,
                   "traj_idx": i % 8, "tags": ["x"], "total_reward": r, "final_reward": 0.0,
                   "trajectory_metrics": {"correct": r}, "steps": [], "final_ob_len": 9}
                  for i, (p, r) in enumerate(own))
        )  # fmt: skip
        (tmp_path / "nemo").mkdir(exist_ok=True)
        (tmp_path / "nemo" / f"train_data_step{s + 1}.jsonl").write_text(
            lines({"content": f"q{p}", "rewards": r, "response": "x", "idx": i}
                  for i, (p, r) in enumerate(own))
        )  # fmt: skip
        (tmp_path / "trl" / "completions").mkdir(parents=True, exist_ok=True)
        pq.write_table(
            pa.table({"step": [s + 1] * 32, "prompt": [f"q{p}" for p, _ in own],
                      "completion": ["text"] * 32, "is_right": [r for _, r in own],
                      "advantage": [0.1] * 32}),
            tmp_path / "trl" / "completions" / f"completions_{s + 1:05d}.parquet",
        )  # fmt: skip
    one = tmp_path / "dump.parquet"
    pq.write_table(
        pa.table({"step": [s for s, _, _ in steps], "problem_id": [p for _, p, _ in steps],
                  "response": ["text"] * len(steps), "reward": rewards.ravel()}),
        one,
    )  # fmt: skip
    for place, column in (
        ("verl", "score"), ("tinker", "total_reward"), ("nemo", "rewards"), ("trl", "is_right"),
        ("dump.parquet", "reward"),
    ):  # fmt: skip
        log = read_log(tmp_path / place)
        assert log.column == column, place
        assert log.values.tolist() == rewards.mean(axis=(1, 2)).tolist()
        assert log.facts["samples a step"] == 32
        assert log.facts.get("problems a step", 4) == 4
        assert log.facts["reward levels"] == 2
    assert "problems a step" in read_log(tmp_path / "verl").facts


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "{", "holds no known metrics"),
        ("a.json", '{"loss": 1}', "neither a trainer_state.json.*it holds loss"),
        ("a.jsonl", "[1]\n", "is JSON, but neither"),
        ("a.jsonl", '{"campaign": 0, "step": 0, "metrics": {}}\n', "selfreg.analysis"),
        ("a.jsonl", '{"campaign": 0, "step": 0, "metrics": {}}\n{"a": 1}\n', "selfreg.analysis"),
        ("a.log", "nothing here\n", "holds no known metrics"),
        ("a.csv", "step,acc\n1,0.5\n", "name one with --column; nearest are acc, step"),
        ("a.csv", "step,name\n", "no numbers"),
        ("a.csv", "", "is empty"),
        ("a.jsonl", "\n\n", "is empty"),
        ("x.tfevents.1", "this is text and no event file at all", "not a TensorBoard event file"),
        ("a.zip", "PK\x03\x04", "is a zip archive"),
        ("a.parquet", "PAR1 and no more", "damaged Parquet"),
        ("a.json", "[" * 100_000, "holds no known metrics|is JSON, but"),
        ("a.jsonl", '{"a":' * 50_000 + "\n", "holds no "),
    ],
)
def test_unreadable_files_give_a_one_line_error(tmp_path, name, content, message):
    file = tmp_path / name
    file.write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_logs(file)
    assert "\n" not in str(caught.value)
    assert str(file) in str(caught.value)


def test_the_nearest_names_come_first(tmp_path):
    file = tmp_path / "a.jsonl"
    names = [f"aaa/{i}" for i in range(40)] + ["my_reward_ema", "zzz/rewarded"]
    file.write_text(lines([{"step": i, **dict.fromkeys(names, 0.5)} for i in range(3)]))
    with pytest.raises(ValueError, match=r"nearest are (my_rew|zzz/rew)") as caught:
        read_logs(file)
    assert len(str(caught.value)) < 400
    with pytest.raises(ValueError, match=r"no 'my_reward'.*nearest are my_reward_ema"):
        read_logs(file, "my_reward")


def test_missing_files_columns_and_text(tmp_path, trl_state):
    (tmp_path / "b.log").write_bytes(b"\x00\xfe\x00\x81\x00\x01")
    (tmp_path / "empty").mkdir()
    for call, message in (
        (lambda: read_logs(tmp_path / "none.csv"), "no such file"),
        (lambda: read_logs(tmp_path / "empty"), "neither a trainer_state.json, event files"),
        (lambda: read_logs(tmp_path / "b.log"), "is neither text nor"),
        (lambda: read_logs(trl_state, "acc"), "has no 'acc': name one with --column"),
        (lambda: read_logs(trl_state, "reward", "when"), "no column 'when'"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_damaged_files_give_at_most_a_one_line_error(tmp_path, trl_state):
    """Flipped bits, cut ends and garbage are read, or refused with a ValueError."""
    with SummaryWriter(str(tmp_path / "tb")) as writer:
        for step in range(20):
            writer.add_scalar("reward", step / 20, step)
    (events,) = (tmp_path / "tb").iterdir()
    pq.write_table(pa.table({"step": range(30), "reward": VALUES}), tmp_path / "whole.parquet")
    wholes = {
        "a.jsonl": JSONL,
        "a.csv": CSV.encode(),
        "a.json": trl_state.read_bytes(),
        "a.jsonl.gz": gzip.compress(JSONL),
        "a.jsonl.bz2": bz2.compress(JSONL),
        "a.jsonl.xz": lzma.compress(JSONL),
        "a.jsonl.zst": pa.compress(JSONL, codec="zstd", asbytes=True),
        "events.out.tfevents.1": events.read_bytes(),
        "a.parquet": (tmp_path / "whole.parquet").read_bytes(),
        "a.wandb": b":W&B\xe1\xbe\x00" + b"\x12\x34\x56\x78\x05\x00\x01hello",
        "a.log": b"step:1 - critic/score/mean:0.5 - x:1\n{'reward': {'a': ",
    }
    rng = np.random.default_rng(0)
    for name, whole in wholes.items():
        file = tmp_path / name
        for turn in range(25):
            data = bytearray(whole)
            for at in rng.integers(0, len(data), 1 + turn // 5):
                data[at] = rng.integers(256)
            cut = int(rng.integers(1, len(data))) if turn % 2 else len(data)
            file.write_bytes(rng.bytes(2_000) if turn == 24 else bytes(data[:cut]))
            with contextlib.suppress(ValueError):  # anything else fails the test
                read_logs(file)
