"""Controls on scripted traces: their decisions, by hand."""

import pytest

from selfreg.control import supervise
from selfreg.control.between import early_stop
from selfreg.control.find import find_between, find_within
from selfreg.control.protocol import Base
from selfreg.run.records import Checkpoint, Plan, StepRecord, Trace, Verdict

BASE = Base(budget_steps=20, lr=1e-6)


def trace(values, campaign=0, metric="pass_rate"):
    """A campaign with one value a step; None where nothing was measured."""
    records = tuple(
        StepRecord(campaign, step, {} if value is None else {metric: value})
        for step, value in enumerate(values)
    )
    return Trace(campaign, metric, records)


def plans(condition, scripted):
    """The plans that a condition makes, one before each campaign and one after the last."""
    between = find_between(condition)
    state = between.start(BASE)
    made = [between.plan(state)]
    for campaign, values in enumerate(scripted):
        state = between.observe(state, trace(values, campaign))
        made.append(between.plan(state))
    return made


SCRIPT = [
    [0.2, 0.5, 0.4, 0.1],  # rise and collapse: peak at 1, end at 3
    [0.1] * 5 + [0.3] + [0.2] * 9 + [0.3],  # flat noise: the first of two equal peaks
    [0.01 * step for step in range(21)],  # steady rise: the peak is the end, 20
]


def test_a0_rolls_the_end_forward_with_the_full_budget():
    first, *rest = plans("naive", SCRIPT)
    assert first.start is None
    assert [plan.start for plan in rest] == [Checkpoint(0, 3), Checkpoint(1, 15), Checkpoint(2, 20)]
    assert {(plan.budget_steps, plan.lr, plan.kl_coef) for plan in rest} == {(20, 1e-6, 0.0)}


def test_es_rolls_the_peak_forward_and_sets_the_budget_by_it():
    first, *rest = plans("early_stop", SCRIPT)
    assert (first.start, first.budget_steps) == (None, 20)
    assert [plan.start for plan in rest] == [Checkpoint(0, 1), Checkpoint(1, 5), Checkpoint(2, 20)]
    assert [plan.budget_steps for plan in rest] == [8, 8, 20]
    assert {(plan.lr, plan.kl_coef) for plan in rest} == {(1e-6, 0.0)}


@pytest.mark.parametrize(
    ("peak_step", "budget"), [(0, 8), (5, 8), (6, 9), (16, 19), (17, 20), (18, 20), (199, 20)]
)
def test_es_budget_is_clamped(peak_step, budget):
    assert early_stop.budget_after(peak_step) == budget


def test_unmeasured_steps_are_no_peaks():
    assert trace([None, 0.2, None, 0.4, None, 0.3, None]).peak_step == 3
    with pytest.raises(ValueError, match="no measurement of 'pass_rate'"):
        _ = trace([None, None]).peak_step


def test_a_budget_stops_after_exactly_that_many_updates():
    supervision = supervise.begin(find_within("fixed"), BASE, Plan(None, 3, 1e-6, 0.0))
    verdicts = []
    for record in trace([0.5, 0.1, 0.1]).records:  # a collapse does not stop it
        supervision = supervise.observe(supervision, record)
        verdicts.append(supervision.verdict)
    assert verdicts == [Verdict.CONTINUE, Verdict.CONTINUE, Verdict.STOP]


@pytest.mark.parametrize("condition", ["naive", "early_stop"])
def test_replaying_gives_the_same_decisions(condition):
    assert plans(condition, SCRIPT) == plans(condition, SCRIPT)
