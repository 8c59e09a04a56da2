"""What controls between campaigns remember of each campaign, and where they read it.

memory.json holds {"control": the control's name, "entries": one a campaign, ...}: a person can read
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
    """One finished campaign: what was ordered, and what came of it.

    Attributes:
      campaign: Of its own chain, from 0.
      action: What a gate decided; "" where none did.
      reason: Why it was ordered.
      budget_steps: The most updates it might make.
      lr: Peak learning rate.
      kl_coef: Weight of the KL penalty.
      peak_step: Where the control's metric peaked first.
      end_step: How many updates were made.
      start: The metric, where it was measured first.
      peak: Its maximum.
      end: Where it was measured last.
      ratio: r = end / peak; 1 when the peak is 0, as nothing was there to lose.
      predicted: What r was expected to be; None where nothing predicts it.
      revision: What a wrong prediction changed; "": nothing.
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
    """The entry of a campaign that ran by this order."""
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
    """The checkpoint of the campaign's peak."""
    return Checkpoint(trace.campaign, trace.peak_step)


def end_of(trace: Trace) -> Checkpoint:
    """The checkpoint of the campaign's end."""
    return Checkpoint(trace.campaign, trace.end_step)


def capability(trace: Trace, place: str, name: str) -> float:
    """A capability of the policy at a campaign's "start", "peak" or "end", as pass@1.

    "main" is what the trace measured under that name; where it did not, the control's own metric:
    its first value, its maximum, its last value. A maximum of noisy values is biased upward, and
    so is a rise of "main" that is taken from it.

    Raises:
      ValueError: It was not measured.
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
    """What memory.json keeps of a control."""
    return {"control": control, **to_json(more), "entries": to_json(entries)}


def without_memory(base: Base) -> Base:
    """The base that a state keeps: its memory has been read, and is saved with the run once."""
    return replace(base, memory={})


def check_memory(base: Base, control: str) -> Mapping[str, Any]:
    """The memory that a chain begins with; empty: none.

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
    """The entries that a chain begins with.

    Raises:
      ValueError: Another control wrote them, or they are not as this one writes them.
    """
    memory = check_memory(base, control)
    try:
        return tuple(Entry(**row) for row in memory.get("entries", ()))
    except TypeError as error:
        raise ValueError(
            f"config.control.memory is not as {control!r} writes it: {error}"
        ) from None


def refuse_memory(base: Base, control: str) -> Base:
    """The base of a control that remembers nothing.

    Raises:
      ValueError: It is given a memory.
    """
    if base.memory:
        raise ValueError(f"config.control.memory: {control!r} remembers nothing; leave it ''")
    return base
