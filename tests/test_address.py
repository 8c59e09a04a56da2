"""Checkpoints by name: each form, and what a name that means nothing says."""

from pathlib import Path

import numpy as np
import pytest

from selfreg.run import address, rundir
from selfreg.run.address import Address
from selfreg.run.records import Checkpoint, PanelScore, Plan, StepRecord

# The metric of each campaign's steps; the third campaign still runs.
VALUES = ({0: 0.2, 5: 0.6, 9: 0.3}, {0: 0.3, 5: 0.6, 9: 0.5}, {0: 0.5, 5: 0.9})


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "a:b" / "run"  # a colon in a path is no mark of the grammar
    folder.mkdir(parents=True)
    config = {"campaigns": 4, "control_metric": "pass_rate"}
    rundir.write_json(folder / rundir.CONFIG, config)
    for campaign, values in enumerate(VALUES):
        for step, value in values.items():
            rundir.append_line(
                folder / rundir.METRICS, StepRecord(campaign, step, {"pass_rate": value})
            )
            place = rundir.checkpoint_folder(folder / rundir.CHECKPOINTS, campaign) / str(step)
            place.mkdir(parents=True)
    (place.parent / "7.orbax-checkpoint-tmp").mkdir()
    score = PanelScore(("p",), np.zeros(1), 1)
    for campaign in range(2):
        summary = rundir.CampaignSummary(
            campaign, Plan(None, 9, 1e-3, 0.0), 5, 9, {"end": score}, Checkpoint(0, 5), {}
        )
        rundir.append_line(folder / rundir.CAMPAIGNS, summary)
    return folder


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("start", (0, 0)),
        ("peak", (0, 5)),  # the first of two equal ones, and not of the campaign that still runs
        ("end", (1, 9)),
        ("kept", (0, 5)),
        ("latest", (2, 5)),
        ("1:start", (1, 0)),
        ("1:peak", (1, 5)),
        ("0:end", (0, 9)),
        ("0:latest", (0, 9)),
        ("1.7", (1, 7)),
        ("007.010", (7, 10)),
    ],
)
def test_each_form_names_one_checkpoint(run, form, expected):
    found = address.find(address.parse(f"{run}:{form}"))
    assert (found.campaign, found.step) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "'' names no checkpoint"),
        ("run", "'run' names no checkpoint: write RUN:PLACE"),
        (":peak", "names no checkpoint"),
        ("run:", "names no checkpoint"),
        ("run:3", "names no checkpoint"),
        ("run:3.", "names no checkpoint"),
        ("run:.4", "names no checkpoint"),
        ("run:-1.4", "names no checkpoint"),
        ("run:1:2.3:x", "names no checkpoint"),
        ("run:lastest", "did you mean run:latest?"),
        ("run:PEAK", "names no checkpoint"),
    ],
)
def test_another_form_is_refused_with_the_forms(text, words):
    with pytest.raises(ValueError) as error:
        address.parse(text)
    assert words in str(error.value)
    assert "RUN:CAMPAIGN.STEP" in str(error.value)


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ("2:peak", "campaigns 0 to 1 have finished; name a CAMPAIGN.STEP"),
        ("9:latest", "there is no checkpoint in"),
        ("1.7", "of campaign 1 it keeps 1.0, 1.5, 1.9, and not step 7"),
        ("5.0", "of campaign 5 it keeps no step"),
    ],
)
def test_what_is_not_there_is_refused(run, form, words):
    named = address.parse(f"{run}:{form}")
    with pytest.raises(ValueError, match=words):
        address.check_saved(named, address.find(named))


def test_a_run_that_is_not_there_or_has_not_come_far(run, tmp_path):
    with pytest.raises(ValueError, match="there is no folder"):
        address.find(address.parse(f"{tmp_path}/none:start"))
    (run / rundir.CAMPAIGNS).unlink()
    for place in ("peak", "end", "kept", "0:peak"):
        with pytest.raises(ValueError, match="no finished campaign"):
            address.find(address.parse(f"{run}:{place}"))
    assert address.find(address.parse(f"{run}:latest")) == Checkpoint(2, 5)


def test_what_may_still_move():
    def is_fixed(form):
        return address.parse(f"run:{form}").is_fixed

    assert all(map(is_fixed, ("start", "3.20", "3:start", "3:peak", "3:end", "3:kept")))
    assert not any(map(is_fixed, ("peak", "end", "kept", "latest", "3:latest")))
    assert address.parse("run:3:peak") == Address("run:3:peak", Path("run"), 3, "peak")
