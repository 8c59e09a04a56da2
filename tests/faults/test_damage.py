"""Test damage to the folder of a stopped run: it is refused, repaired, or has no effect."""

import random
import shutil

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pyarrow.parquet as pq
import pytest

from selfreg.loop import chain
from selfreg.policy.rollout import engines
from selfreg.run import rundir
from selfreg.run.checkpoint import Checkpoints, DamagedError, restore
from selfreg.run.checksums import checksums
from selfreg.run.records import Checkpoint
from selfreg.run.runlog import RunLog
from tests.test_restore import Scripted, small

SETTINGS = {"campaigns": 2, "campaign_budget_steps": 6, "checkpoint.every_steps": 2}
STOPPED_AT = 1, 5  # its latest checkpoint is step 4 of campaign 1, its peak is step 2


def run(folder):
    chain.run_chain(small(**SETTINGS), folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Return the folders of a finished run and of the same run stopped in its second campaign."""
    whole, stopped = (tmp_path_factory.mktemp(name) / "run" for name in ("whole", "stopped"))
    append = RunLog.append

    def stop(log, record):
        if (record.campaign, record.step) == STOPPED_AT:
            raise KeyboardInterrupt
        append(log, record)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engines, "JaxEngine", Scripted)
        run(whole)
        patch.setattr(RunLog, "append", stop)
        with pytest.raises(KeyboardInterrupt):
            run(stopped)
    return whole, stopped


@pytest.fixture
def stopped(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "JaxEngine", Scripted)
    return shutil.copytree(folders[1], tmp_path / "run")


def state_of(folder):
    """Read the results of a run, without timings."""
    said = [
        (r.campaign, r.step, r.rates, {k: v for k, v in r.metrics.items() if untimed(k)})
        for r in rundir.read_records(folder)
    ]
    tables = {
        file.name: pq.read_table(file).drop(["grade_time_s", "grade_peak_mb"]).to_pylist()
        for file in sorted((folder / rundir.COMPLETIONS).iterdir())
    }
    return said, rundir.read_lines(folder / rundir.CAMPAIGNS), tables, end_weights(folder)


def untimed(name):
    return not name.startswith(("time/", "compiles", "grader/program_"))


def end_weights(folder):
    place = rundir.checkpoint_folder(folder / rundir.CHECKPOINTS, 1) / "6"
    with ocp.StandardCheckpointer() as reader:
        return checksums(reader.restore(place / "params"))


def flip(file, bit):
    data = bytearray(file.read_bytes())
    data[bit // 8] ^= 1 << (bit % 8)
    file.write_bytes(data)


def tensors(folder, campaign, step, name="params"):
    """Return the file with the values of a checkpoint's tree, which is the largest one."""
    place = rundir.checkpoint_folder(folder / rundir.CHECKPOINTS, campaign) / str(step) / name
    return max(
        (file for file in place.rglob("*") if file.is_file()), key=lambda f: f.stat().st_size
    )


@pytest.mark.parametrize("name", ["params", "moments"])
def test_a_damaged_latest_checkpoint_gives_way_to_the_one_before(name, folders, stopped, capsys):
    file = tensors(stopped, 1, 4, name)
    flip(file, 8 * (file.stat().st_size // 2))
    run(stopped)
    assert state_of(stopped) == state_of(folders[0])
    said = capsys.readouterr().err
    assert "campaign_01/4" in said
    assert "going on from step 2" in said
    aside = list((stopped / rundir.CHECKPOINTS / "campaign_01").glob("damaged_4_*"))
    assert len(aside) == 1


def test_where_no_checkpoint_is_good_the_run_does_not_begin_anew(stopped):
    for step in (0, 2, 4):
        file = tensors(stopped, 1, step)
        flip(file, 8 * (file.stat().st_size // 2))
    before = sorted(file for file in stopped.rglob("*") if file.is_file())
    with pytest.raises(DamagedError, match=r"campaign_01/4 .*Remove that folder"):
        run(stopped)
    assert [file for file in before if not file.is_file()] == []


def without(line):
    def damage(file):
        lines = file.read_bytes().splitlines(keepends=True)
        del lines[line]
        file.write_bytes(b"".join(lines))

    return damage


def doubled(file):
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([*lines[:3], lines[2], *lines[3:]]))


def shuffled(file):
    lines = file.read_bytes().splitlines(keepends=True)
    lines[1], lines[2] = lines[2], lines[1]
    file.write_bytes(b"".join(lines))


def cut(file):
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:5]))


def emptied(file):
    file.write_bytes(b"")


def another_digit(file):
    text = file.read_text()
    at = text.index('"loss": ') + len('"loss": ')
    at += text[at] == "-"
    digit = "2" if text[at] == "1" else "1"
    file.write_text(text[:at] + digit + text[at + 1 :])


def not_a_number(file):
    text = file.read_text()
    start = text.index('"loss": ') + len('"loss": ')
    file.write_text(text[:start] + "NaN" + text[text.index(",", start) :])


def not_text(file):
    file.write_bytes(b"\xff" + file.read_bytes()[1:])


def doubled_line(file):
    file.write_bytes(2 * file.read_bytes())


def gone(file):
    file.unlink()


@pytest.mark.parametrize(
    "damage",
    [without(2), doubled, shuffled, cut, emptied, another_digit, not_a_number, not_text, gone],
    ids=lambda f: f.__qualname__.partition(".")[0],
)
def test_records_that_changed_are_refused(damage, stopped):
    damage(stopped / rundir.METRICS)
    with pytest.raises(ValueError, match=r"metrics\.jsonl"):
        run(stopped)


@pytest.mark.parametrize("damage", [emptied, gone, not_text, doubled_line])
def test_summaries_that_changed_are_refused(damage, stopped):
    damage(stopped / rundir.CAMPAIGNS)
    with pytest.raises(ValueError, match=r"campaigns\.jsonl"):
        run(stopped)


def test_plans_that_are_lost_are_made_again(folders, stopped):
    (stopped / rundir.PLANS).unlink()
    run(stopped)
    assert state_of(stopped) == state_of(folders[0])
    assert (stopped / rundir.PLANS).read_text() == (folders[0] / rundir.PLANS).read_text()


def test_plans_that_changed_are_refused(stopped):
    file = stopped / rundir.PLANS
    file.write_text(file.read_text().replace('"budget_steps": 6', '"budget_steps": 5'))
    with pytest.raises(ValueError, match=r"plans\.jsonl"):
        run(stopped)


def test_completions_that_are_gone_are_missed(stopped):
    rundir.completions_file(stopped, 1, 1, "train").unlink()
    with pytest.raises(ValueError, match=r"campaign_01_step_0001_train\.parquet is gone"):
        run(stopped)


def test_a_bit_of_any_file_of_a_checkpoint(tmp_path):
    """Flip bits of every file: reading returns the saved values or is refused."""
    rng = np.random.default_rng(0)
    tree = {
        "params": {"w": jnp.array(rng.normal(size=(40, 9)), jnp.float32), "b": jnp.zeros(7)},
        "moments": {"count": jnp.int32(3), "m": jnp.arange(20, dtype=jnp.int8)},
    }
    checkpoints = Checkpoints(tmp_path, 0)
    checkpoints.save(4, tree, peak_value=0.5, rests_on="records")
    checkpoints.close()
    place = rundir.checkpoint_folder(tmp_path, 0) / "4"
    draw, outcomes = random.Random(0), {"refused": 0, "as saved": 0}
    saved = {name: checksums(own) for name, own in tree.items()}
    for file in sorted(file for file in place.rglob("*") if file.is_file()):
        untouched = file.read_bytes()
        for bit in draw.sample(range(8 * len(untouched)), min(4, 8 * len(untouched))):
            flip(file, bit)
            try:
                back = restore(tmp_path, Checkpoint(0, 4), tree)
            except DamagedError:
                outcomes["refused"] += 1
            else:
                assert {name: checksums(own) for name, own in back.items()} == saved, file
                outcomes["as saved"] += 1
            file.write_bytes(untouched)
    assert min(outcomes.values()) > 10, outcomes
