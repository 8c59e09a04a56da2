"""A0, naive chaining: the end checkpoint rolls forward, with the budget and rates of the config."""

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
    """Start the chain from its initial policy."""
    return State(refuse_memory(base, "naive"))


def plan(state: State) -> Plan:
    """Start from the last end."""
    reason = "the end rolls forward" if state.end else "first campaign"
    return state.base.plan(state.campaign, state.end, reason)


def observe(state: State, trace: Trace) -> State:
    """Remember the end."""
    return replace(state, campaign=trace.campaign + 1, end=end_of(trace))


CONTROL = Between(start, plan, observe)
