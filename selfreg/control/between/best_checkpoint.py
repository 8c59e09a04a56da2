"""B1, best checkpoint: the peak rolls forward, with the config's hyperparameters and no gate.

The paper, section 5.5: "peak ckpt + fixed hyperparams, no gate".
"""

from dataclasses import dataclass, replace

from selfreg.control.history import peak_of, refuse_memory
from selfreg.control.protocol import Base, Between
from selfreg.run.records import Checkpoint, Plan, Trace


@dataclass(frozen=True, slots=True)
class State:
    """The config's hyperparameters, the next campaign, and the last one's peak."""

    base: Base
    campaign: int = 0
    peak: Checkpoint | None = None


def start(base: Base) -> State:
    """Start the chain from its initial policy."""
    return State(refuse_memory(base, "best_checkpoint"))


def plan(state: State) -> Plan:
    """Start from the last peak."""
    reason = "the peak rolls forward" if state.peak else "first campaign"
    return state.base.plan(state.campaign, state.peak, reason)


def observe(state: State, trace: Trace) -> State:
    """Remember the peak."""
    return replace(state, campaign=trace.campaign + 1, peak=peak_of(trace))


CONTROL = Between(start, plan, observe)
