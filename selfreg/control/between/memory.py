"""A1, memory only: records every campaign and never acts. The end rolls forward, as in A0."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from selfreg.control.history import Entry, end_of, entry_of, inherited, remembered, without_memory
from selfreg.control.protocol import Base, Between
from selfreg.run.records import Plan, Trace


@dataclass(frozen=True, slots=True)
class State:
    """The config's hyperparameters, the next campaign's plan, and the campaigns before it."""

    base: Base
    order: Plan
    entries: tuple[Entry, ...] = ()


def begin(base: Base, control: str) -> State:
    """Start the chain from its initial policy, with the memory of another chain if there is one."""
    order = base.plan(0, None, "first campaign")
    return State(without_memory(base), order, inherited(base, control))


def plan(state: State) -> Plan:
    """Start from the last end."""
    return state.order


def observe(state: State, trace: Trace) -> State:
    """Record the campaign."""
    entry = entry_of(state.order, trace)
    order = state.base.plan(trace.campaign + 1, end_of(trace), "the end rolls forward")
    return replace(state, order=order, entries=(*state.entries, entry))


def remember(state: State, control: str) -> dict[str, Any]:
    """Remember every campaign."""
    return remembered(control, state.entries)


CONTROL = Between(
    partial(begin, control="memory"), plan, observe, remember=partial(remember, control="memory")
)
