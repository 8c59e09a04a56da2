"""A0, naive chaining: the end checkpoint rolls forward, with the budget and rates of the config."""

from dataclasses import dataclass, replace

from selfreg.control.protocol import Base, Between
from selfreg.records import Checkpoint, Plan, Trace


@dataclass(frozen=True, slots=True)
class State:
    """The config's hyperparameters, and where the last campaign ended."""

    base: Base
    end: Checkpoint | None = None


def start(base: Base) -> State:
    """Nothing has run: the chain starts from its initial policy."""
    return State(base)


def plan(state: State) -> Plan:
    """Go on from the last end."""
    base = state.base
    reason = "the end rolls forward" if state.end else "first campaign"
    return Plan(state.end, base.budget_steps, base.lr, base.kl_coef, reason)


def observe(state: State, trace: Trace) -> State:
    """Remember the end."""
    return replace(state, end=Checkpoint(trace.campaign, trace.end_step))


NAIVE = Between(start, plan, observe)
