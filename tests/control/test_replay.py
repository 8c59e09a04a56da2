"""Controls asked again about stored campaigns."""

from dataclasses import dataclass, replace

from selfreg.control.find import find_between, find_within
from selfreg.control.protocol import Base, Between
from selfreg.control.replay import RESTORES, Decision, Played, replay_campaign, replay_chain
from selfreg.run.records import Answer, Checkpoint, Plan, StepRecord, Trace, Verdict

OPTIONS = {"early_stop_drop": 0.02, "early_stop_patience": 3, "max_restores": 0}
BASE = Base(budget_steps=20, lr=1e-6, options=OPTIONS)
RESTORING = replace(BASE, options=OPTIONS | {"max_restores": 1})
PLAN = Plan(None, 20, 1e-6, 0.0)


def played(values, restores=(), campaign=0, **others):
    """A campaign with one pass rate a step, and restores after the updates of some."""
    records = []
    for step, value in enumerate(values):
        count = sum(at < step for at in restores)
        metrics = {"pass_rate": value} | ({RESTORES: count} if count else {})
        records.append(StepRecord(campaign, step, metrics))
    return Played(PLAN, Trace(campaign, "pass_rate", tuple(records)), **others)


COLLAPSE = [0.2, 0.5, 0.4, 0.3, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]
STOP, RESTORE = Verdict.STOP, Verdict.RESTORE_PEAK


def within(base, campaign):
    return replay_campaign(find_within("early_stop"), base, campaign)


def test_it_stops_where_the_rule_says_and_no_later():
    assert within(BASE, played(COLLAPSE)) == (Decision(4, STOP),)


def test_a_used_up_budget_and_the_last_measurement_are_no_decisions():
    assert within(BASE, played([0.5] * 21)) == ()
    # Declines at 18, 19 and 20: the budget ends it first.
    assert within(BASE, played([0.5] * 18 + [0.1] * 3)) == ()
    # Declines at 1, 2 and 3, where 3 is a stopped campaign's last line.
    assert within(BASE, played([0.5, 0.1, 0.1, 0.1])) == ()


def test_after_a_restore_that_the_run_did_not_make_the_trace_is_anothers():
    assert within(RESTORING, played(COLLAPSE)) == (Decision(4, RESTORE),)
    # The run restored elsewhere: that is not the same.
    assert within(RESTORING, played(COLLAPSE, restores=[6])) == (Decision(4, RESTORE),)
    assert within(RESTORING, played(COLLAPSE, restores=[2])) == (Decision(4, RESTORE),)


def test_after_a_restore_that_the_run_made_too_the_replay_goes_on():
    again = [0.2, 0.5, 0.4, 0.3, 0.2, 0.5, 0.4, 0.4, 0.4, 0.4]
    decided = within(RESTORING, played(again, restores=[4]))
    assert decided == (Decision(4, RESTORE), Decision(8, STOP))


def test_plans_are_those_that_the_control_would_have_made():
    chain = [played(COLLAPSE), played(COLLAPSE, campaign=1)]
    decided, after = replay_chain(find_within("fixed"), find_between("early_stop"), BASE, chain)
    assert [each.plan.start for each in decided] == [None, Checkpoint(0, 1)]
    assert [each.plan.budget_steps for each in decided] == [20, 8]
    assert [each.decisions for each in decided] == [(), ()]
    assert (after.start, after.budget_steps) == (Checkpoint(1, 1), 8)


@dataclass(frozen=True)
class Heard:
    base: Base
    words: str = ""
    campaign: int = 0


def asking():
    """A control whose plans' reasons are what it was answered."""
    return Between(
        start=Heard,
        plan=lambda s: s.base.plan(0, None, s.words),
        observe=lambda s, trace: replace(s, campaign=s.campaign + 1),
        ask=lambda s: f"what about campaign {s.campaign}?",
        hear=lambda s, answer: replace(s, words=answer.text or answer.error),
    )


def test_answers_are_those_of_the_run_and_nobody_is_asked_anew():
    chain = [played(COLLAPSE, answer=Answer("yes")), played(COLLAPSE, campaign=1)]
    decided, _ = replay_chain(find_within("fixed"), asking(), BASE, chain)
    assert [each.plan.reason for each in decided] == [
        "yes",
        "a replay asks nobody, and the run holds no answer",
    ]
