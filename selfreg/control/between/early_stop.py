"""ES, deployed early stopping: the peak rolls forward and sets the next campaign's budget.

The paper, section 5.8: max_steps(c + 1) = clamp(peak_step(c) + 3, 8, 20), the base learning rate
and KL weight preserved. The first campaign runs its full budget.
"""

from dataclasses import dataclass, replace

from selfreg.control.protocol import Base, Between
from selfreg.records import Checkpoint, Plan, Trace

SLACK_STEPS, LEAST_STEPS, MOST_STEPS = 3, 8, 20


@dataclass(frozen=True, slots=True)
class State:
    """The config's hyperparameters, and the last campaign's peak."""

    base: Base
    peak: Checkpoint | None = None


def start(base: Base) -> State:
    """Nothing has run: the chain starts from its initial policy."""
    return State(base)


def budget_after(peak_step: int) -> int:
    """clamp(peak_step + 3, 8, 20) updates."""
    return min(max(peak_step + SLACK_STEPS, LEAST_STEPS), MOST_STEPS)


def plan(state: State) -> Plan:
    """Go on from the last peak, for a little longer than that peak took."""
    base = state.base
    if state.peak is None:
        return Plan(None, base.budget_steps, base.lr, base.kl_coef, "first campaign")
    reason = f"the peak at step {state.peak.step} rolls forward"
    return Plan(state.peak, budget_after(state.peak.step), base.lr, base.kl_coef, reason)


def observe(state: State, trace: Trace) -> State:
    """Remember the peak."""
    return replace(state, peak=Checkpoint(trace.campaign, trace.peak_step))


EARLY_STOP = Between(start, plan, observe)
