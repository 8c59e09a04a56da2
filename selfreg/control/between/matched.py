"""EQ, equal updates: naive chaining that makes as many updates as another run made.

A stopping rule also trains less. This control stands beside it: the end rolls forward, and campaign
c makes exactly control.match_updates[c] updates, the last number for all later campaigns; the
end_step of each line of the other run's campaigns.jsonl is that number. What the rule gains over
this one is not owed to fewer updates.
"""

from dataclasses import dataclass, replace

from selfreg.control.history import end_of, refuse_memory
from selfreg.control.protocol import Base, Between
from selfreg.records import Checkpoint, Plan, Trace


@dataclass(frozen=True, slots=True)
class State:
    """The config's hyperparameters, the next campaign, and where the last one ended."""

    base: Base
    campaign: int = 0
    end: Checkpoint | None = None


def start(base: Base) -> State:
    """Nothing has run: the chain starts from its initial policy.

    Raises:
      ValueError: control.match_updates is not a number of updates a campaign.
    """
    updates = base.options["match_updates"]
    if not updates or any(not isinstance(n, int) or n < 1 for n in updates):
        raise ValueError(
            f"config.control.match_updates={updates!r}: name how many updates each campaign of the "
            "run to match made, such as (20, 8, 11): the end_step of each in its campaigns.jsonl"
        )
    return State(refuse_memory(base, "matched"))


def plan(state: State) -> Plan:
    """Go on from the last end, for as many updates as the other run's campaign made."""
    updates = state.base.options["match_updates"]
    budget = updates[min(state.campaign, len(updates) - 1)]
    reason = f"{budget} updates, as in the run to match"
    return state.base.plan(state.campaign, state.end, reason, budget_steps=budget)


def observe(state: State, trace: Trace) -> State:
    """Remember the end."""
    return replace(state, campaign=trace.campaign + 1, end=end_of(trace))


CONTROL = Between(start, plan, observe)
