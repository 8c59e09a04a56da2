import json

import numpy as np
import pytest

from selfreg.analysis.capabilities import gap_rows, measured, score_rows
from selfreg.analysis.decisions import decisions, rows
from selfreg.analysis.load import load_run
from selfreg.run import rundir
from selfreg.run.records import Answer, PanelScore, Plan

LEVELS = [[0.3, 0.5, 0.1, 0.0], [0.5, 0.4, 0.3]]


def edit(file, change):
    """Pass every JSON line through `change`."""
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines:
        change(line)
    rundir.keep_lines(file, lines)


def test_restores_and_early_stops_are_found(write_run):
    folder = write_run("run", LEVELS)

    def restore(line):
        if line["campaign"] == 0 and line["step"] >= 2:
            line["metrics"]["control/restores"] = 1 + (line["step"] == 3)

    def budget(line):
        if line["campaign"] == 1:
            line["plan"] |= {"budget_steps": 9, "action": "pilot", "temperature": 0.5}

    edit(folder / rundir.METRICS, restore)
    edit(folder / rundir.CAMPAIGNS, budget)
    run = load_run(folder)
    first, second = decisions(run)
    assert (first.restores, first.stopped_early, first.steps) == ((2, 3), False, 3)
    assert (second.restores, second.stopped_early, second.steps) == ((), True, 2)
    shown = rows(run, [first, second])
    assert shown[0] == {
        "campaign": "1", "action": "-", "reason": "first campaign",
        "starts from": "the initial policy", "budget": "3 steps", "lr": "0.001", "KL": "0",
        "temperature": "-", "restores": "at step 2, 3", "ended": "-",
    }  # fmt: skip
    assert shown[1]["action"] == "pilot"
    assert shown[1]["starts from"] == "end of campaign 1"
    assert shown[1]["ended"] == "early, at step 2"


def test_a_campaign_under_way_shows_its_plan(write_run):
    folder = write_run("run", LEVELS, finished=1)
    assert len(decisions(load_run(folder))) == 1
    answer = Answer("try 3", question="how many?")
    for planned in (
        rundir.Planned(0, Plan(None, 3, 1e-3, 0.0)),
        rundir.Planned(1, Plan(None, 7, 2e-3, 0.0), answer),
    ):
        rundir.append_line(folder / rundir.PLANS, planned)
    last = decisions(load_run(folder))[1]
    assert (last.plan.budget_steps, last.stopped_early, last.answer) == (7, False, answer)


@pytest.fixture
def capable(write_run):
    folder = write_run("run", LEVELS)
    score = PanelScore(("x", "y"), np.array([0.25, 0.75]), 4)

    def add(line):
        places = dict.fromkeys(("start", "peak", "end"), score)
        line["capabilities"] = rundir.to_json({"hard": places})

    edit(folder / rundir.CAMPAIGNS, add)
    edit(
        folder / rundir.METRICS,
        lambda line: line["metrics"].update(distinct_completions=line["step"] / 8),
    )
    return load_run(folder)


def test_every_policy_is_listed_once(capable):
    found = [(p.campaign, p.place, p.step, p.update) for p in measured(capable)]
    assert found == [
        (0, "start", 0, 0), (0, "peak", 1, 1), (0, "end", 3, 3),
        (1, "start and peak", 0, 3), (1, "end", 2, 5),
    ]  # fmt: skip
    # The second campaign's start is listed as a policy of the first.
    listed = [(row["campaign"], row["policy"]) for row in score_rows(measured(capable))]
    assert listed == [
        ("1", "start, step 0"), ("1", "peak, step 1"), ("1", "end, step 3"), ("2", "end, step 2"),
    ]  # fmt: skip


def test_gaps_are_main_minus_the_panel(capable):
    row = score_rows(measured(capable))[1]
    # main: 12 problems at 0.25 and 0.75: sd 0.261, / sqrt(12); hard: two: sd 0.354, / sqrt(2).
    assert row == {
        "campaign": "1", "policy": "peak, step 1", "main": "0.50 ± 0.08", "hard": "0.50 ± 0.25",
        "distinct": "0.12",
    }  # fmt: skip
    gaps = [row["main - hard"] for row in gap_rows(measured(capable))]
    # sqrt(0.0754^2 + 0.25^2), and main at levels 0.3, 0.5, 0.0 and 0.3.
    assert gaps == ["-0.20 ± 0.25", "+0.00 ± 0.26", "-0.50 ± 0.25", "-0.20 ± 0.25"]


def test_without_capabilities_there_is_no_vector(write_run):
    assert measured(load_run(write_run("run", LEVELS))) == []
