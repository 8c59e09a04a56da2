"""EQ, equal updates: naive chaining that makes as many updates as another run made.

A stopping rule also trains less. This control shows how much of its gain that explains: the end
rolls forward, and campaign c makes exactly as many updates as campaign c of the run
config.control.match_updates_of, or as its last campaign if that run had fewer. The rule's gain over
this control is not due to fewer updates.
"""

from dataclasses import dataclass, replace

from selfreg.control.history import end_of, refuse_memory
from selfreg.control.protocol import Base, Between
from selfreg.run.records import Checkpoint, Plan, Trace


@dataclass(frozen=True, slots=True)
class State:
    """The config's hyperparameters, the next campaign, and where the last one ended."""

    base: Base
    campaign: int = 0
    end: Checkpoint | None = None


def start(base: Base) -> State:
    """Start the chain from its initial policy.

    Raises:
      ValueError: The config names no run to match.
    """
    if not base.match_updates:
        raise ValueError(
            "config.control.match_updates_of='': name the run folder whose updates to match"
        )
    return State(refuse_memory(base, "matched"))


def plan(state: State) -> Plan:
    """Start from the last end, for as many updates as the other run's campaign made."""
    updates = state.base.match_updates
    budget = updates[min(state.campaign, len(updates) - 1)]
    reason = f"{budget} updates, as in the run to match"
    return state.base.plan(state.campaign, state.end, reason, budget_steps=budget)


def observe(state: State, trace: Trace) -> State:
    """Remember the end."""
    return replace(state, campaign=trace.campaign + 1, end=end_of(trace))


CONTROL = Between(start, plan, observe)
