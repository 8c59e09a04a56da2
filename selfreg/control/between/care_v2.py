"""A3, CARE v2: the gate of A2, with a threshold that learns from wrong predictions.

Section 5.4 of the paper (arXiv:2606.21090) names the threshold and its bounds, [0.3, 0.7], and
leaves the rest open. Here the prediction of r is the mean over the remembered campaigns with the
same action. The first campaign, which runs in full, counts as a reuse. If the observed r differs
from the prediction by more than control.revision_margin, tau moves by control.tau_step:

    observed < predicted - margin    a collapse was missed   tau goes up: the gate acts sooner
    observed > predicted + margin    a false alarm           tau goes down

The revision comes before the gate, so that it affects the very next campaign.
"""

from dataclasses import replace
from functools import partial
from statistics import fmean

from selfreg.control.between import gate
from selfreg.control.history import Entry, check_memory, entry_of
from selfreg.control.protocol import Base, Between
from selfreg.run.records import Trace

TAU_LOW, TAU_HIGH = 0.3, 0.7


def begin(base: Base, control: str) -> gate.State:
    """Begin as the gate does, with the threshold that the memory has learned.

    Raises:
      ValueError: The memory's threshold is out of bounds.
    """
    tau = check_memory(base, control).get("tau", gate.TAU)
    if not (isinstance(tau, float) and TAU_LOW <= tau <= TAU_HIGH):
        raise ValueError(f"config.control.memory: tau={tau!r} is not in [{TAU_LOW}, {TAU_HIGH}]")
    return replace(gate.begin(base, control), tau=tau)


def predict(entries: tuple[Entry, ...], action: str) -> float | None:
    """Return the mean r of the remembered campaigns of an action; None without any."""
    ratios = [entry.ratio for entry in entries if (entry.action or gate.REUSE) == action]
    return fmean(ratios) if ratios else None


def error(state: gate.State, trace: Trace) -> tuple[Entry, float]:
    """Return the campaign's entry with its prediction, and observed - predicted r.

    The difference is 0 if it is within the margin, or if nothing was predicted.
    """
    entry = entry_of(state.order, trace)
    predicted = predict(state.entries, entry.action or gate.REUSE)
    if predicted is None:
        return entry, 0.0
    difference = entry.ratio - predicted
    surprising = abs(difference) > state.base.options["revision_margin"]
    return replace(entry, predicted=predicted), difference if surprising else 0.0


def observe(state: gate.State, trace: Trace) -> gate.State:
    """Revise the threshold if the prediction failed, then gate the next campaign."""
    entry, surprise = error(state, trace)
    if surprise:
        step = state.base.options["tau_step"]
        tau = min(max(state.tau + (step if surprise < 0 else -step), TAU_LOW), TAU_HIGH)
        words = "a collapse was missed" if surprise < 0 else "a false alarm"
        entry = replace(entry, revision=f"{words}: tau {state.tau:.3f} -> {tau:.3f}")
        state = replace(state, tau=tau)
    return gate.follow(state, trace, entry)


CONTROL = Between(
    partial(begin, control="care_v2"),
    gate.plan,
    observe,
    remember=partial(gate.remember, control="care_v2"),
)
