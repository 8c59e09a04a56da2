"""ES, deployed early stopping: the peak rolls forward and sets the next campaign's budget.

The paper, section 5.8: max_steps(c + 1) = clamp(peak_step(c) + 3, 8, 20), the base learning rate
and KL weight preserved. The first campaign runs its full budget.
"""

from dataclasses import dataclass, replace

from selfreg.control.history import peak_of, refuse_memory
from selfreg.control.protocol import Base, Between
from selfreg.run.records import Checkpoint, Plan, Trace

SLACK_STEPS, LEAST_STEPS, MOST_STEPS = 3, 8, 20


@dataclass(frozen=True, slots=True)
class State:
    """The config's hyperparameters, the next campaign, and the last one's peak."""

    base: Base
    campaign: int = 0
    peak: Checkpoint | None = None


def start(base: Base) -> State:
    """Start the chain from its initial policy."""
    return State(refuse_memory(base, "early_stop"))


def budget_after(peak_step: int) -> int:
    """Return clamp(peak_step + 3, 8, 20) updates."""
    return min(max(peak_step + SLACK_STEPS, LEAST_STEPS), MOST_STEPS)


def plan(state: State) -> Plan:
    """Start from the last peak, for slightly more steps than that peak took."""
    if state.peak is None:
        return state.base.plan(state.campaign, None, "first campaign")
    reason = f"the peak at step {state.peak.step} rolls forward"
    budget = budget_after(state.peak.step)
    return state.base.plan(state.campaign, state.peak, reason, budget_steps=budget)


def observe(state: State, trace: Trace) -> State:
    """Remember the peak."""
    return replace(state, campaign=trace.campaign + 1, peak=peak_of(trace))


CONTROL = Between(start, plan, observe)
