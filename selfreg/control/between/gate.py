"""A2, the transfer gate of CARE v2: a rule over r, the last campaign's end / peak.

Section 5.4 of the paper (arXiv:2606.21090), with tau = 0.5:

    r >= tau          reuse   the full budget
    0.3 <= r < tau    pilot   10 steps at the same learning rate
    r < 0.3           reject  a pilot from the base hyperparameters: those of the first campaign

The peak always rolls forward, and the learning rate never shrinks. So a reject differs from a pilot
only if config.learn.kl_schedule has changed the KL weight since the first campaign.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from selfreg.control.history import (
    Entry,
    entry_of,
    inherited,
    peak_of,
    remembered,
    without_memory,
)
from selfreg.control.protocol import Base, Between
from selfreg.run.records import Checkpoint, Plan, Trace

TAU, COLLAPSE_RATIO, PILOT_STEPS = 0.5, 0.3, 10
REUSE, PILOT, REJECT = "reuse", "pilot", "reject"


@dataclass(frozen=True, slots=True)
class State:
    """The config's hyperparameters, the next campaign's plan, the threshold, and the past."""

    base: Base
    order: Plan
    tau: float = TAU
    entries: tuple[Entry, ...] = ()


def begin(base: Base, control: str) -> State:
    """Start the chain from its initial policy; there is nothing to gate yet."""
    order = base.plan(0, None, "first campaign")
    return State(without_memory(base), order, entries=inherited(base, control))


def plan(state: State) -> Plan:
    """Return the gate's plan."""
    return state.order


def route(ratio: float, tau: float) -> str:
    """Return the gate's action."""
    if ratio >= tau:
        return REUSE
    return PILOT if ratio >= COLLAPSE_RATIO else REJECT


def order_of(base: Base, action: str, campaign: int, start: Checkpoint, reason: str) -> Plan:
    """Make the plan that an action stands for."""
    changes: dict[str, Any] = {"action": action}
    if action != REUSE:
        changes["budget_steps"] = min(PILOT_STEPS, base.budget_steps)
    if action == REJECT:
        changes["kl_coef"] = base.kl_coefs[0]
    return base.plan(campaign, start, reason, **changes)


def follow(state: State, trace: Trace, entry: Entry) -> State:
    """Keep the entry, and gate the next campaign by its r and the current threshold."""
    action = route(entry.ratio, state.tau)
    reason = f"r = {entry.ratio:.3f}, tau = {state.tau:.3f}: {action} from the peak"
    order = order_of(state.base, action, trace.campaign + 1, peak_of(trace), reason)
    return replace(state, order=order, entries=(*state.entries, entry))


def observe(state: State, trace: Trace) -> State:
    """Gate the next campaign."""
    return follow(state, trace, entry_of(state.order, trace))


def remember(state: State, control: str) -> dict[str, Any]:
    """Remember the threshold, and every campaign."""
    return remembered(control, state.entries, tau=state.tau)


CONTROL = Between(
    partial(begin, control="gate"), plan, observe, remember=partial(remember, control="gate")
)
