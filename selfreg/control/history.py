"""Reads the entry of each campaign that controls between campaigns remember.

memory.json holds {"control": the control's name, "entries": one a campaign, ...}. People can read
it, and a control of the same name can begin with it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from selfreg.control.protocol import Base
from selfreg.run.records import Checkpoint, Plan, Trace, peak_index, to_json

MAIN = "main"  # the capability that a campaign trains for


@dataclass(frozen=True, slots=True)
class Entry:
    """One finished campaign: its plan, and its result.

    Attributes:
      campaign: Its number in its own chain, from 0.
      action: A gate's action; "" without a gate.
      reason: The reason in the plan.
      budget_steps: The most updates that the plan allowed.
      lr: The peak learning rate.
      kl_coef: The weight of the KL penalty.
      peak_step: The step of the peak of the control's metric.
      end_step: The updates that were made.
      start: The first value of the metric.
      peak: Its value at the peak.
      end: Its last value.
      ratio: r = end / peak; 1 when the peak is 0, because there was nothing to lose.
      predicted: The predicted r; None without a prediction.
      revision: The revision after a wrong prediction; "" where there was none.
    """

    campaign: int
    action: str
    reason: str
    budget_steps: int
    lr: float
    kl_coef: float
    peak_step: int
    end_step: int
    start: float
    peak: float
    end: float
    ratio: float
    predicted: float | None = None
    revision: str = ""


def entry_of(order: Plan, trace: Trace) -> Entry:
    """Make the entry of a campaign that ran by this plan."""
    _, values = trace.series()
    peak, end = float(values[peak_index(values)]), float(values[-1])
    return Entry(
        campaign=trace.campaign,
        action=order.action,
        reason=order.reason,
        budget_steps=order.budget_steps,
        lr=order.lr,
        kl_coef=order.kl_coef,
        peak_step=trace.peak_step,
        end_step=trace.end_step,
        start=float(values[0]),
        peak=peak,
        end=end,
        ratio=end / peak if peak > 0 else 1.0,
    )


def peak_of(trace: Trace) -> Checkpoint:
    """Return the checkpoint of the campaign's peak."""
    return Checkpoint(trace.campaign, trace.peak_step)


def end_of(trace: Trace) -> Checkpoint:
    """Return the checkpoint of the campaign's end."""
    return Checkpoint(trace.campaign, trace.end_step)


def capability(trace: Trace, place: str, name: str) -> float:
    """Return a capability at a campaign's "start", "peak" or "end", as pass@1.

    "main" is the panel of that name if there is one, and else the control's own metric: its first
    value, its peak or its last value. A maximum of noisy values is biased upward, and so is a rise
    of "main" to it.

    Raises:
      ValueError: The capability was not measured.
    """
    measured = trace.capabilities.get(place, {})
    if name in measured:
        return float(measured[name])
    if name != MAIN:
        raise ValueError(
            f"campaign {trace.campaign} has no measurement of {name!r} at its {place}: "
            f"name it in config.evaluation.capabilities, as '{name}=SOURCE'"
        )
    _, values = trace.series()
    return float({"start": values[0], "peak": values[peak_index(values)], "end": values[-1]}[place])


def remembered(control: str, entries: tuple[Any, ...], **more: Any) -> dict[str, Any]:
    """Return the content of memory.json for a control."""
    return {"control": control, **to_json(more), "entries": to_json(entries)}


def without_memory(base: Base) -> Base:
    """Return the base that a state keeps: without the memory, which the run saves only once."""
    return replace(base, memory={})


def check_memory(base: Base, control: str) -> Mapping[str, Any]:
    """Return the memory that a chain begins with; empty where there is none.

    Raises:
      ValueError: Another control wrote it.
    """
    writer = base.memory.get("control")
    if base.memory and writer != control:
        raise ValueError(
            f"config.control.memory: {writer!r} wrote it, and {control!r} reads only its own kind"
        )
    return base.memory


def inherited(base: Base, control: str) -> tuple[Entry, ...]:
    """Return the entries that a chain begins with.

    Raises:
      ValueError: Another control wrote them, or they lack the fields of this one.
    """
    memory = check_memory(base, control)
    try:
        return tuple(Entry(**row) for row in memory.get("entries", ()))
    except TypeError as error:
        raise ValueError(
            f"config.control.memory is not as {control!r} writes it: {error}"
        ) from None


def refuse_memory(base: Base, control: str) -> Base:
    """Return the base of a control that remembers nothing.

    Raises:
      ValueError: The config gives it a memory.
    """
    if base.memory:
        raise ValueError(f"config.control.memory: {control!r} remembers nothing; leave it ''")
    return base
