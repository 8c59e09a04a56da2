"""A3v1 and B4, CARE v1: the gate of A2v1, and lr <- 0.7 lr after each wrong prediction.

The paper's appendix A. A revision (see care_v2) shrinks the learning rate here, in whichever
direction the prediction failed; the threshold stays. A collapse that was not predicted applies both
factors: 1e-6 -> 3.5e-7, the appendix's number.
"""

from dataclasses import replace
from functools import partial

from selfreg.control.between import care_v2, gate, gate_v1
from selfreg.control.protocol import Between
from selfreg.run.records import Trace

REVISION_FACTOR = 0.7


def observe(state: gate.State, trace: Trace) -> gate.State:
    """Shrink the learning rate if the prediction failed, then act as A2v1."""
    entry, surprise = care_v2.error(state, trace)
    lr = state.order.lr
    if surprise:
        lr *= REVISION_FACTOR
        entry = replace(entry, revision=f"r off by {surprise:+.3f}: lr times {REVISION_FACTOR}")
    return gate_v1.follow(state, trace, entry, lr)


CONTROL = Between(
    partial(gate.begin, control="care_v1"),
    gate.plan,
    observe,
    remember=partial(gate.remember, control="care_v1"),
)
