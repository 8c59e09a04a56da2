import json

import numpy as np
import pytest
from tensorboardX import SummaryWriter

from selfreg.audit.logs import read_log

# What TRL 1.16.0 and transformers 5.23.0 print beside their progress bar, shortened.
TRL_CONSOLE = (
    "  0%|          | 0/30 [00:00<?, ?it/s]\n"
    "  3%|3         | 1/30 [00:05<02:36,  5.39s/it]\r"
    "{'loss': '-0.04167', 'grad_norm': '0.6862', 'completions/clipped_ratio': '0.7188', "
    "'reward': '0.2812', 'kl': '0', 'entropy': '3.129', 'epoch': '0.01562'}\n"
    "{'loss': '0.04858', 'grad_norm': 'nan', 'reward': '0.5', 'entropy': '3.128'}\n"
    "{'train_runtime': '85.54', 'train_loss': '-0.01994', 'epoch': '0.4688'}\n"
)
# The lines of verl's LocalLogger and OpenRLHF's trainer, by their sources.
VERL_CONSOLE = (
    "(TaskRunner pid=1) step:1 - critic/score/mean:0.25 - actor/entropy:1.5 - "
    "actor/grad_norm:np.float64(0.3) - response_length/clip_ratio:0.0 - timing_s/gen:8.1e-01\n"
    "(TaskRunner pid=1) noise: step by step\n"
    "(TaskRunner pid=1) step:2 - critic/score/mean:np.float64(0.5) - actor/grad_norm:nan\n"
)
OPENRLHF_CONSOLE = (
    "(PPOTrainer pid=1) INFO ✨ Global step 1: {'policy_loss': 0.02, 'reward': 0.4, 'kl': 0.01, "
    "'response_length': 310.5}\n"
    "(PPOTrainer pid=1) INFO ✨ Global step 2 [replay]: {'reward': 0.6, 'kl': nan}\n"
)


def test_a_real_trainer_state(trl_state):
    log = read_log(trl_state)
    assert (log.format, log.column) == ("trainer state", "reward")
    assert log.steps.tolist() == list(range(1, 31))  # the summary of the training has no reward
    assert log.values[:4].tolist() == [0.28125, 0.5, 0.5, 0.46875]
    assert {name: theirs for name, (theirs, _) in log.indicators.items()} == {
        "entropy": "entropy",
        "KL": "kl",
        "gradient norm": "grad_norm",
        "length": "completions/mean_length",
        "cut at the limit": "completions/clipped_ratio",
    }
    assert log.indicators["entropy"][1][3] == 3.1247994899749756


def test_the_longest_state_of_a_folder_counts(trl_state, tmp_path):
    state = json.loads(trl_state.read_text())
    for upto in (9, 20, 100):
        folder = tmp_path / f"checkpoint-{upto}"
        folder.mkdir()
        cut = {**state, "log_history": state["log_history"][:upto]}
        (folder / "trainer_state.json").write_text(json.dumps(cut))
    assert len(read_log(tmp_path).values) == 30


@pytest.mark.parametrize(
    ("text", "form", "steps", "values", "indicators"),
    [
        (TRL_CONSOLE, "TRL", [0, 1], [0.2812, 0.5], {"entropy", "KL", "gradient norm"}),
        (VERL_CONSOLE, "verl", [1, 2], [0.25, 0.5], {"entropy", "gradient norm"}),
        (OPENRLHF_CONSOLE, "OpenRLHF", [1, 2], [0.4, 0.6], {"KL", "length"}),
    ],
)
def test_consoles(tmp_path, text, form, steps, values, indicators):
    file = tmp_path / "train.log"
    file.write_text(text)
    log = read_log(file)
    assert (log.format, log.steps.tolist(), log.values.tolist()) == (form, steps, values)
    assert log.indicators.keys() - {"cut at the limit"} == indicators
    for name in ("gradient norm", "KL"):
        if name in indicators and form != "TRL":
            assert np.isnan(log.indicators[name][1][1])  # logged as nan, and so absent


def test_verls_file_logger_and_a_line_cut_short(tmp_path):
    file = tmp_path / "run.jsonl"
    rows = [{"step": s, "data": {"critic/score/mean": s / 10, "actor/entropy": 1}} for s in (2, 1)]
    file.write_text("\n".join(map(json.dumps, rows)) + '\n{"step": 3, "data": {"cri')
    log = read_log(file)
    assert (log.column, log.steps.tolist()) == ("critic/score/mean", [1, 2])
    assert log.values.tolist() == [0.1, 0.2]
    assert log.indicators["entropy"][0] == "actor/entropy"


def test_a_resumed_run_logs_steps_again_and_the_later_counts(tmp_path):
    file = tmp_path / "history.jsonl"
    rows = [(1, 0.1), (2, 0.2), (3, 0.3), (2, 0.7), (3, 0.8), (4, 0.9)]
    file.write_text("".join(json.dumps({"_step": s, "train/reward": r}) + "\n" for s, r in rows))
    log = read_log(file)
    assert log.steps.tolist() == [1, 2, 3, 4]
    assert log.values.tolist() == [0.1, 0.7, 0.8, 0.9]


def test_a_wandb_export(tmp_path):
    file = tmp_path / "wandb_export.csv"
    file.write_text(
        '"Step","run-1 - train/reward","run-1 - train/reward__MIN","run-1 - train/kl"\n'
        '"0","0.25","0.25","0.0"\n"1","","",""\n"2","0.5","0.5","0.1"\n'
    )
    log = read_log(file)
    assert (log.format, log.column) == ("CSV", "run-1 - train/reward")
    assert (log.steps.tolist(), log.values.tolist()) == ([0, 2], [0.25, 0.5])
    assert log.indicators["KL"][1].tolist() == [0.0, 0.1]

    file.write_text('"Step","a - train/reward","b - train/reward"\n"0","0.25","0.5"\n')
    with pytest.raises(ValueError, match=r"2 runs have 'train/reward'.*a - train/reward, b"):
        read_log(file)
    assert read_log(file, "b - train/reward").values.tolist() == [0.5]


def test_any_column_of_any_table(tmp_path):
    file = tmp_path / "mine.csv"
    file.write_text("it,acc,name\n10,0.5,x\n5,0.25,y\n")
    log = read_log(file, "acc", "it")
    assert (log.steps.tolist(), log.values.tolist()) == ([5, 10], [0.25, 0.5])
    assert read_log(file, "acc").steps.tolist() == [0, 1]


def test_real_event_files(tmp_path):
    with SummaryWriter(str(tmp_path / "tb")) as writer:
        for step in range(5):
            writer.add_scalar("train/reward", step / 10, step)
            writer.add_text("note", "not a number", step)
            writer.add_histogram("weights", np.arange(5), step)
    with SummaryWriter(str(tmp_path / "tb"), filename_suffix=".resumed") as writer:
        writer.add_scalar("train/reward", 1.0, 4)
        writer.add_scalar("train/kl", 0.5, 4)
    log = read_log(tmp_path / "tb")
    assert (log.format, log.column) == ("TensorBoard", "train/reward")
    assert log.steps.tolist() == [0, 1, 2, 3, 4]
    assert log.values == pytest.approx([0, 0.1, 0.2, 0.3, 1.0])
    np.testing.assert_allclose(log.indicators["KL"][1], [np.nan] * 4 + [0.5])


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


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "{", "is not JSON"),
        ("a.json", '{"loss": 1}', "neither a trainer_state.json"),
        ("a.jsonl", '{"a": 1}\nx\n{"a": 1}\n', "line 2 is not JSON"),
        ("a.jsonl", "[1]\n", "no JSON object"),
        ("a.jsonl", '{"campaign": 0, "step": 0, "metrics": {}}\n', "selfreg.analysis"),
        ("a.log", "nothing here\n", "holds no metrics of TRL, verl or OpenRLHF"),
        ("a.csv", "step,acc\n1,0.5\n", "name one with --column, of acc, step"),
        ("a.csv", "step,name\n", "no numbers"),
        ("x.tfevents.1", "this is text and no event file at all", "no TensorBoard event file"),
    ],
)
def test_what_cannot_be_read_is_told_in_one_line(tmp_path, name, text, message):
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_log(file)
    assert "\n" not in str(caught.value)


def test_missing_files_columns_and_text(tmp_path, trl_state):
    (tmp_path / "b.log").write_bytes(b"\xff\xfe\x00\x81")
    for call, message in (
        (lambda: read_log(tmp_path / "none.csv"), "no such file"),
        (lambda: read_log(tmp_path), "neither a trainer_state.json nor"),
        (lambda: read_log(tmp_path / "b.log"), "is not text"),
        (lambda: read_log(trl_state, "acc"), "has no 'acc': name one with --column"),
        (lambda: read_log(trl_state, "reward", "when"), "no column 'when'"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
