"""A2v1, the gate of CARE v1: a collapse halves the learning rate, for good.

The paper's appendix A. A collapse is r < tau = 0.5, the same threshold as in v2. It changes the
learning rate in v1 (adapt), and the budget in v2, so that v1 always has the full budget. As in v2
the peak rolls forward. The paper found v1 counter-productive and kept it for two tables.
"""

from dataclasses import replace
from functools import partial

from selfreg.control.between import gate
from selfreg.control.history import Entry, entry_of, peak_of
from selfreg.control.protocol import Between
from selfreg.run.records import Trace

ADAPT = "adapt"
COLLAPSE_FACTOR = 0.5


def follow(state: gate.State, trace: Trace, entry: Entry, lr: float) -> gate.State:
    """Keep the entry, and plan the next campaign from this learning rate."""
    collapsed = entry.ratio < state.tau
    action = ADAPT if collapsed else gate.REUSE
    lr = lr * COLLAPSE_FACTOR if collapsed else lr
    reason = f"r = {entry.ratio:.3f}, tau = {state.tau:.3f}: {action} from the peak"
    order = state.base.plan(trace.campaign + 1, peak_of(trace), reason, lr=lr, action=action)
    return replace(state, order=order, entries=(*state.entries, entry))


def observe(state: gate.State, trace: Trace) -> gate.State:
    """Halve the learning rate if the campaign collapsed."""
    return follow(state, trace, entry_of(state.order, trace), state.order.lr)


CONTROL = Between(
    partial(gate.begin, control="gate_v1"),
    gate.plan,
    observe,
    remember=partial(gate.remember, control="gate_v1"),
)
