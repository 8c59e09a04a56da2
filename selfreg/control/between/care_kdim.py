"""A4, K-dim CARE: A3, overridden when a second capability falls.

Appendix I.3 of the paper (arXiv:2606.21090): when `cpp` of the policy that rolls forward (the peak)
is below the chain's first value, the action is a reject, whatever r is. This is how the gate of
appendix D treats a protected capability that regressed. Both values are noisy and the rule has no
margin, so an unchanged policy is rejected about every other time.
"""

from dataclasses import dataclass, replace
from typing import Any

from selfreg.control.between import care_v2, gate
from selfreg.control.history import capability, peak_of
from selfreg.control.protocol import Base, Between
from selfreg.run.records import Plan, Trace

CAPABILITY = "cpp"


@dataclass(frozen=True, slots=True)
class State:
    """A3's state, the next campaign's plan, and the capability: first and at every peak."""

    scalar: gate.State
    order: Plan
    first: float | None = None
    peaks: tuple[float, ...] = ()


def start(base: Base) -> State:
    """Start as A3 does.

    Raises:
      ValueError: The capability is not measured.
    """
    if CAPABILITY not in base.capabilities:
        raise ValueError(
            f"config.between='care_kdim' reads the capability {CAPABILITY!r}: name it in "
            f"config.evaluation.capabilities={base.capabilities!r}, as 'cpp=procedural:cpp'"
        )
    scalar = care_v2.begin(base, "care_kdim")
    return State(scalar, scalar.order)


def plan(state: State) -> Plan:
    """Return the plan of the gate or of the override."""
    return state.order


def observe(state: State, trace: Trace) -> State:
    """Gate the next campaign as A3 does, and override it if the capability fell."""
    first, peak = state.first, capability(trace, "peak", CAPABILITY)
    if first is None:
        first = capability(trace, "start", CAPABILITY)
    # A3 learns from the plan that ran, not from the plan that it would have made.
    scalar = care_v2.observe(replace(state.scalar, order=state.order), trace)
    order = scalar.order
    if peak < first:
        reason = f"{CAPABILITY} {peak:.3f} is below its first {first:.3f}: reject from the peak"
        campaign = trace.campaign + 1
        order = gate.order_of(scalar.base, gate.REJECT, campaign, peak_of(trace), reason)
    return State(scalar, order, first, (*state.peaks, peak))


def remember(state: State) -> dict[str, Any]:
    """Remember what A3 does, and the capability."""
    measured = {"first": state.first, "peaks": list(state.peaks)}
    return {**gate.remember(state.scalar, "care_kdim"), CAPABILITY: measured}


CONTROL = Between(start, plan, observe, remember=remember)
