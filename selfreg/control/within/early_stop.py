"""Online early stop: end a campaign after three declines in a row from its running peak.

The paper, section 5.8, "online early-stop oracle": "three consecutive declines (each > 0.02 in
absolute pass@1) from peak". Here a *decline* is a measurement of the control's metric that lies
more than `control.early_stop_drop` below the running peak, the highest measurement so far. One that
does not ends the row; `control.early_stop_patience` in a row stop the campaign. The peak counts,
not the measurement before: a slide in steps of 0.01 is caught, a dip in a rise is not. Steps
without a measurement neither lengthen the row nor end it.
"""

import math
from dataclasses import dataclass, replace

from selfreg.control.protocol import Base, Within
from selfreg.run.records import Plan, StepRecord, Verdict

# Rates are multiples of a fraction: rounding must not make a drop of 0.02 more than 0.02.
ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class State:
    """The rule, the running peak, and how many declines in a row there are."""

    metric: str
    drop: float
    patience: int
    peak: float = -math.inf
    declines: int = 0


def start(base: Base, plan: Plan) -> State:
    """Nothing has been measured."""
    options = base.options
    return State(base.metric, options["early_stop_drop"], options["early_stop_patience"])


def observe(state: State, record: StepRecord) -> tuple[State, Verdict]:
    """Count a decline, or begin anew."""
    if state.metric not in record.metrics:
        return state, Verdict.CONTINUE
    value = record.metrics[state.metric]
    declined = state.peak - value > state.drop + ROUNDING
    declines = state.declines + 1 if declined else 0
    state = replace(state, peak=max(state.peak, value), declines=declines)
    return state, Verdict.STOP if declines >= state.patience else Verdict.CONTINUE


CONTROL = Within(start, observe)
