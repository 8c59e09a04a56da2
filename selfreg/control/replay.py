"""What controls would have decided on a stored chain. Nothing is run, and nobody is asked.

Each level is asked on its own: a control between campaigns sees every campaign as it was stored, a
control within a campaign sees its steps under the plan that it had. What would have become of other
decisions nobody knows: the next stored campaign started from where the run's own control let it.
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
    """A finished campaign as it was stored: its plan, what happened, and the answer before it."""

    plan: Plan
    trace: Trace
    answer: Answer | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What a control within a campaign says after the update of a step, unless it is to go on."""

    step: int
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Decided:
    """The decisions of both levels about one campaign.

    Attributes:
      campaign: From 0.
      plan: What the control between campaigns orders before it.
      decisions: What the control within it says. Empty: the campaign uses its budget up. The list
        ends with the first decision that the run did not make itself: what is stored after that
        is another campaign's.
    """

    campaign: int
    plan: Plan
    decisions: tuple[Decision, ...]


def replay_campaign(within: Within, base: Base, played: Played) -> tuple[Decision, ...]:
    """What a control within campaigns says of one."""
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
    """What a pair of controls says of a chain.

    Args:
      within: Of the two.
      between: The other.
      base: What the config gives them.
      campaigns: Those that are finished, in order.

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
