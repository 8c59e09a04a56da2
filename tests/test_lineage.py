"""Initial policies and first campaigns that chains take from other runs, exact to the bit."""

import json
import os
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from test_chain import small
from test_resume import records

from selfreg.analysis.report import write_report
from selfreg.loop import chain, lineage
from selfreg.run import rundir
from selfreg.run.runlog import RunLog

PROBES = {"problems.train_count": 8, "campaign_budget_steps": 3, "optimizer.lr": 1e-3}


def weights(folder, campaign, step):
    place = folder.absolute() / "checkpoints" / f"campaign_{campaign:02d}" / str(step)
    with ocp.StandardCheckpointer() as reader:
        return reader.restore(place / "params")


def saved(folder, campaign):
    return rundir.saved_steps(folder / rundir.CHECKPOINTS, campaign)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Make A0 with step 2 kept, ES alone, and ES that takes its first campaign from A0."""
    folder = tmp_path_factory.mktemp("lineage")
    kept = PROBES | {"checkpoint.keep_every_steps": 2, "evaluation.every_steps": 3}
    chain.run_chain(small(**kept, campaigns=1), folder / "A0")
    chain.run_chain(small(**kept, condition="ES"), folder / "alone")
    shares = {"condition": "ES", "share_first_campaign_of": str(folder / "A0")}
    chain.run_chain(small(**kept, **shares), folder / "shared")
    return folder


def test_every_nth_step_is_kept(runs):
    assert saved(runs / "A0", 0) == sorted({0, 2, 3})


def test_a_shared_first_campaign_gives_the_chain_that_ran_it_itself(runs):
    alone, shared = runs / "alone", runs / "shared"
    assert records(shared) == records(alone)
    for name in (rundir.CAMPAIGNS, rundir.PLANS):
        assert (shared / name).read_text() == (alone / name).read_text()
    for campaign in (0, 1):
        assert saved(shared, campaign) == saved(alone, campaign)
        for step in saved(alone, campaign):
            ours, theirs = (weights(run, campaign, step) for run in (shared, alone))
            jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    files = [sorted(p.name for p in (f / rundir.COMPLETIONS).iterdir()) for f in (alone, shared)]
    assert files[0] == files[1]
    for name in files[0]:
        tables = [
            pq.read_table(f / rundir.COMPLETIONS / name).drop(["grade_time_s", "grade_peak_mb"])
            for f in (alone, shared)
        ]
        assert tables[0].equals(tables[1]), name


def test_what_is_shared_lies_on_the_disk_once(runs):
    theirs, ours = (
        {p.relative_to(run): p.stat().st_ino for p in run.rglob("campaign_00/**/*") if p.is_file()}
        for run in (runs / "A0" / rundir.CHECKPOINTS, runs / "shared" / rundir.CHECKPOINTS)
    )
    assert theirs
    assert ours == theirs


class DiedError(Exception):
    """Replaces the end of the process."""


@pytest.mark.parametrize(
    ("holder", "name", "nth"),
    [
        (lineage, "_link_file", 3),  # in the middle of a checkpoint
        (os, "link", 40),
        (RunLog, "append", 2),
        (RunLog, "finish_campaign", 1),
    ],
)
def test_sharing_goes_on_wherever_it_ended(holder, name, nth, runs, tmp_path, monkeypatch):
    shares = {"share_first_campaign_of": str(runs / "A0"), "campaigns": 1, "condition": "ES"}
    kept = PROBES | {"checkpoint.keep_every_steps": 2, "evaluation.every_steps": 3}
    config, function, calls = small(**kept, **shares), getattr(holder, name), []

    def dies(*arguments, **named):
        calls.append(1)
        if len(calls) == nth:
            raise DiedError
        return function(*arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(holder, name, dies)
        with pytest.raises(DiedError):
            chain.run_chain(config, tmp_path)
    chain.run_chain(config, tmp_path)
    assert records(tmp_path) == [r for r in records(runs / "alone") if r[0] == 0]
    assert saved(tmp_path, 0) == saved(runs / "A0", 0)
    first = (runs / "alone" / rundir.CAMPAIGNS).read_text().splitlines()[0]
    assert (tmp_path / rundir.CAMPAIGNS).read_text().splitlines() == [first]


OTHER_LR = """
from selfreg.control.between import naive
CONTROL = naive.CONTROL._replace(plan=lambda s: naive.CONTROL.plan(s).__class__(None, 3, 0.5, 0.0))
"""
STOPS = """
from selfreg.control.protocol import Within
from selfreg.run.records import Verdict
CONTROL = Within(lambda base, plan: None, lambda state, record: (state, Verdict.STOP))
"""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"share_first_campaign_of": "nowhere"}, "nowhere is no run folder"),
        ({"optimizer.lr": 2e-3}, r"another first campaign \(optimizer.lr: 0.001 there, 0.002 here"),
        ({"seed": 8}, "seed: 7 there, 8 here"),
        ({"between": "OTHER_LR"}, r"plans another first campaign \(lr 0.001 there, 0.5 here\)"),
        ({"within": "STOPS"}, "would have run it otherwise"),
    ],
)
def test_a_first_campaign_that_would_differ_is_refused(changes, words, runs, tmp_path):
    for name, text in (("OTHER_LR", OTHER_LR), ("STOPS", STOPS)):
        (tmp_path / f"{name}.py").write_text(text)
    named = {
        k: f"{tmp_path}/{v}.py" if v in ("OTHER_LR", "STOPS") else v for k, v in changes.items()
    }
    kept = PROBES | {"checkpoint.keep_every_steps": 2, "evaluation.every_steps": 3}
    config = small(**{**kept, "share_first_campaign_of": str(runs / "A0"), **named})
    with pytest.raises(ValueError, match=words):
        chain.run_chain(config, tmp_path / "run")


def test_a_campaign_that_has_not_ended_is_not_shared(runs, tmp_path):
    tmp_path = tmp_path / "A0"
    shutil.copytree(runs / "A0", tmp_path)
    (tmp_path / rundir.CAMPAIGNS).write_text("")
    kept = PROBES | {"checkpoint.keep_every_steps": 2, "evaluation.every_steps": 3}
    config = small(**kept, share_first_campaign_of=str(tmp_path))
    with pytest.raises(ValueError, match="has not ended; run that chain first"):
        chain.run_chain(config, tmp_path.parent / "run")


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_a_chain_starts_from_a_step_of_another(lora_rank, runs, tmp_path):
    source, changes = runs / "A0", PROBES
    if lora_rank:
        source, changes = tmp_path / "lora", PROBES | {"model.lora_rank": lora_rank}
        chain.run_chain(small(**changes, campaigns=1), source)
    summary = rundir.read_summaries(source)[0]
    start = f"{source}:0.{summary.end_step}"
    chain.run_chain(small(**changes, campaigns=1, init_checkpoint=start), tmp_path / "run")
    ours, theirs = weights(tmp_path / "run", 0, 0), weights(source, 0, summary.end_step)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    begun = rundir.read_summaries(tmp_path / "run")[0].scores["start"]
    assert begun.pass_at_1 == summary.scores["end"].pass_at_1


def test_the_peak_is_where_the_metric_was_highest(runs):
    config = small(init_checkpoint=f"{runs / 'shared'}:peak")
    run, peak = lineage.find_checkpoint(config)
    values = {
        (r.campaign, r.step): r.metrics.get("panel_pass_at_1", -1.0)
        for r in rundir.read_records(run)
    }
    assert values[peak.campaign, peak.step] == max(values.values())
    assert (peak.campaign, peak.step) == next(
        k for k, v in values.items() if v == max(values.values())
    )


@pytest.mark.parametrize(
    ("asked", "changes", "words"),
    [
        ("{runs}/A0", {}, "write RUN:PLACE, RUN:CAMPAIGN:PLACE or RUN:CAMPAIGN.STEP"),
        ("{runs}/A0:0.x", {}, "0.x' names no checkpoint"),
        ("{runs}/A0:peek", {}, "did you mean .*A0:peak?"),
        ("{going}:latest", {}, "0 of its 1 campaigns have ended"),
        ("{runs}/none:peak", {}, "none is no run folder"),
        ("{runs}/A0:0.1", {}, "of campaign 0 it keeps 0.0, 0.2, 0.3, and not step 1; "),
        ("{runs}/A0:4.0", {}, "of campaign 4 it keeps no step"),
        ("{runs}/A0:0.3", {"model.lora_rank": 4}, "another model .model.lora_rank: 0 there, 4"),
        ("{going}:peak", {}, "0 of its 1 campaigns have ended"),
    ],
)
def test_a_checkpoint_that_cannot_be_is_refused(asked, changes, words, runs, tmp_path):
    going = tmp_path / "going"
    going.mkdir()
    shutil.copy(runs / "A0" / rundir.CONFIG, going)
    config = small(**changes, init_checkpoint=asked.format(runs=runs, going=going))
    with pytest.raises(ValueError, match=words):
        lineage.find_checkpoint(config)


def test_a_chain_without_updates_measures_its_policy(tmp_path):
    chain.run_chain(small(**PROBES | {"campaign_budget_steps": 0, "campaigns": 1}), tmp_path)
    (record,) = rundir.read_records(tmp_path)
    assert "panel_pass_at_1" in record.metrics
    assert "loss" not in record.metrics
    (summary,) = rundir.read_summaries(tmp_path)
    assert (summary.peak_step, summary.end_step) == (0, 0)
    assert {score.samples for score in summary.scores.values()} == {2}
    assert "0 updates" in write_report(tmp_path)


def test_each_campaign_learns_from_its_own_category(tmp_path):
    categories = ("procedural:train", "easy:train")
    config = small(**PROBES | {"problems.categories": categories, "campaign_budget_steps": 2})
    chain.run_chain(config, tmp_path)
    for campaign, kind in enumerate(("procedural/train", "easy")):
        files = [f for f in rundir.completions_of(tmp_path, campaign) if "train" in f.name]
        ids = {name for f in files for name in pq.read_table(f)["problem_id"].to_pylist()}
        assert len(files) == 2
        assert all(kind in name for name in ids), ids
    manifest = json.loads((tmp_path / rundir.MANIFEST).read_text())
    assert manifest["starts"][0]["problems"]["train"] == 2 * 8
