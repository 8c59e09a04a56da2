"""Replays controls on a stored chain, to see what they would have decided. Nothing is run.

Each level is replayed on its own. A control between campaigns sees every campaign as it was stored.
A control within a campaign sees the stored steps under the stored plan. A replay cannot tell where
other decisions would have led: each stored campaign started where the run's own control put it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from selfreg.control import supervise
from selfreg.control.protocol import Base, Between, Within
from selfreg.run.records import Answer, Plan, Trace, Verdict

NOT_ASKED = Answer("", error="a replay asks nobody, and the run holds no answer")
RESTORES = "control/restores"


@dataclass(frozen=True, slots=True)
class Played:
    """A finished campaign as it was stored: its plan, its trace, and the answer before it."""

    plan: Plan
    trace: Trace
    answer: Answer | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """The verdict of a control within a campaign after a step, where it is not CONTINUE."""

    step: int
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Decided:
    """The decisions of both levels about one campaign.

    Attributes:
      campaign: From 0.
      plan: The plan of the control between campaigns.
      decisions: The decisions of the control within it; empty where it uses up its budget. The list
        ends with the first decision that the run did not make itself, because the stored steps
        after that belong to another campaign.
    """

    campaign: int
    plan: Plan
    decisions: tuple[Decision, ...]


def replay_campaign(within: Within, base: Base, played: Played) -> tuple[Decision, ...]:
    """Replay a control within campaigns on one campaign."""
    supervision = supervise.begin(within, base, played.plan)
    made = []
    records = played.trace.records
    for record, after in pairwise(records):  # the last one has no update
        supervision = supervise.observe(supervision, record)
        used_up = record.step + 1 >= played.plan.budget_steps
        if supervision.verdict is Verdict.CONTINUE or used_up:
            continue
        made.append(Decision(record.step, supervision.verdict))
        restored = after.metrics.get(RESTORES, 0) > record.metrics.get(RESTORES, 0)
        if supervision.verdict is Verdict.STOP or not restored:
            break
    return tuple(made)


def replay_chain(
    within: Within, between: Between, base: Base, campaigns: Sequence[Played]
) -> tuple[tuple[Decided, ...], Plan]:
    """Replay a pair of controls on a chain.

    Args:
      within: The control within campaigns.
      between: The control between campaigns.
      base: The config's values for both.
      campaigns: The finished campaigns, in order.

    Returns:
      The decisions by campaign, and the plan of the campaign that would come next.
    """
    state, decided = between.start(base), []
    for played in campaigns:
        if between.ask(state) is not None:
            state = between.hear(state, played.answer or NOT_ASKED)
        decisions = replay_campaign(within, base, played)
        decided.append(Decided(played.trace.campaign, between.plan(state), decisions))
        state = between.observe(state, played.trace)
    return tuple(decided), between.plan(state)
