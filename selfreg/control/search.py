"""Searches over (lr, KL). B2, B3, M1 and M2 share this code; they differ only in their proposers.

The end rolls forward. In the paper B2 and B3 (section 5.5) and M1 (appendix I.2) differ from naive
chaining only in their hyperparameters, and only B1 has "peak ckpt". The first campaign runs the
config's own hyperparameters, so that it is the same in every condition.
"""

from dataclasses import dataclass, field, replace
from typing import Any

from selfreg.control.asked import Asked, check_endpoint, count
from selfreg.control.history import Entry, end_of, entry_of, inherited, remembered, without_memory
from selfreg.control.proposers import Proposer, Situation, Tried, read_answer
from selfreg.control.protocol import Base, Between
from selfreg.control.strategy import SEARCH, Strategy, order, words
from selfreg.run.records import Answer, Plan, Trace


@dataclass(frozen=True, slots=True)
class State:
    """The config's hyperparameters, the next campaign and its order, and the past."""

    base: Base
    order: Plan
    campaign: int = 0
    entries: tuple[Entry, ...] = ()
    asked: Asked = field(default_factory=Asked)


def search(control: str, proposer: Proposer) -> Between:
    """Make a control of this name that runs the proposer's first strategy, without a gate."""

    def start(base: Base) -> State:
        if proposer.ask:
            check_endpoint(base, f"config.between={control!r}")
        first = base.plan(0, None, "first campaign")
        return State(without_memory(base), first, entries=inherited(base, control))

    def observe(state: State, trace: Trace) -> State:
        entries = (*state.entries, entry_of(state.order, trace))
        state = replace(state, campaign=trace.campaign + 1, entries=entries)
        strategy = proposer.propose(situation_of(state))[0]
        reason = f"proposed: {words(strategy)}"
        return replace(
            state, order=order(state.base, state.campaign, end_of(trace), strategy, reason)
        )

    def ask(state: State) -> str | None:
        return proposer.ask(situation_of(state)) if proposer.ask and state.campaign else None

    def remember(state: State) -> dict[str, Any]:
        more = {"asked": state.asked} if proposer.ask else {}
        return remembered(control, state.entries, **more)

    return Between(start, lambda state: state.order, observe, ask, hear, remember)


def situation_of(state: State) -> Situation:
    """Return the proposer's input: the metric at each campaign's end and peak, and nothing else."""
    tried = tuple(
        Tried(
            Strategy(lr_factor=entry.lr / state.base.lr, kl_coef=entry.kl_coef),
            {"end": entry.end, "peak": entry.peak},
            entry.ratio,
        )
        for entry in state.entries
    )
    return Situation(state.base, state.campaign, SEARCH, tried, "pass@1 at its end and its peak")


def hear(state: State, answer: Answer) -> State:
    """Order the model's strategy; keep the order made without it if the answer is of no use."""
    try:
        strategy = read_answer(answer, SEARCH)
    except ValueError as error:
        kept = replace(state.order, reason=f"{state.order.reason} (no usable answer)")
        return replace(state, order=kept, asked=count(state.asked, answer, str(error)))
    reason = f"the model chose {words(strategy)}"
    chosen = order(state.base, state.campaign, state.order.start, strategy, reason)
    return replace(state, order=chosen, asked=count(state.asked, answer))
