"""Online early stop: ends a campaign after three declines in a row from its running peak.

The paper, section 5.8, "online early-stop oracle": "three consecutive declines (each > 0.02 in
absolute pass@1) from peak". Here a *decline* is a measurement of the control's metric that lies
more than `control.early_stop_drop` below the running peak, the highest measurement so far. Any
other measurement resets the count, and `control.early_stop_patience` declines in a row stop the
campaign. Measurements are compared with the peak, not with each other: a slide in steps of 0.01 is
caught, and a dip in a rise is not. Steps without a measurement leave the count as it is.
"""

import math
from dataclasses import dataclass, replace

from selfreg.control.protocol import Base, Within
from selfreg.run.records import Plan, StepRecord, Verdict

# Rounding must not turn a drop of 0.02 into more than 0.02.
ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class State:
    """The rule, the running peak, and the number of declines in a row."""

    metric: str
    drop: float
    patience: int
    peak: float = -math.inf
    declines: int = 0


def start(base: Base, plan: Plan) -> State:
    """Start with nothing measured."""
    options = base.options
    return State(base.metric, options["early_stop_drop"], options["early_stop_patience"])


def observe(state: State, record: StepRecord) -> tuple[State, Verdict]:
    """Count a decline, or reset the count."""
    if state.metric not in record.metrics:
        return state, Verdict.CONTINUE
    value = record.metrics[state.metric]
    declined = state.peak - value > state.drop + ROUNDING
    declines = state.declines + 1 if declined else 0
    state = replace(state, peak=max(state.peak, value), declines=declines)
    return state, Verdict.STOP if declines >= state.patience else Verdict.CONTINUE


CONTROL = Within(start, observe)
