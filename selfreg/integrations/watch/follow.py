"""The state of a watched run, as a pure function of its log."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from selfreg import guard
from selfreg.guard.words import sentence
from selfreg.integrations.watch.source import Seen, merge


class Point(NamedTuple):
    """One observation, as the page shows it.

    Attributes:
      step: Step of the run.
      value: Mean reward of the log or of the panel.
      is_look: Whether the value comes from the panel.
      average: The guard's moving average; None before the first.
      log_evidence: Evidence minus the alarm threshold, in nats.
    """

    step: int
    value: float
    is_look: bool
    average: float | None
    log_evidence: float


@dataclass(frozen=True)
class Followed:
    """A watched run.

    Attributes:
      settings: Settings of the guard.
      known: All observations, by source ("log", "panel") and step.
      state: State of the guard after these observations; None before any.
      points: One point per observation, in order.
      decision: The latest decision; None before any.
      alarm_step: Step of the first alarm; None without one.
    """

    settings: guard.Settings
    known: Mapping[str, Mapping[int, Seen]] = field(default_factory=dict)
    state: guard.State | None = None
    points: tuple[Point, ...] = ()
    decision: guard.Decision | None = None
    alarm_step: int | None = None


def take(run: Followed, said: Mapping[str, Mapping[int, Seen]]) -> Followed:
    """Update the run from its logs; if they only grew, observe only the new entries."""
    known = {name: merge(run.known.get(name, {}), said[name]) for name in said}
    before, now = _in_order(run.known), _in_order(known)
    if now[: len(before)] != before:  # the run was resumed, or another one has begun
        return _observe(Followed(run.settings, known), now)
    return _observe(replace(run, known=known), now[len(before) :])


def words(run: Followed) -> str:
    """Describe in one or two sentences where the run stands."""
    if run.decision is None:
        return "Nothing has been logged yet."
    return sentence(run.decision, run.settings, run.alarm_step or run.points[-1].step)


def alone(run: Followed) -> str:
    """Describe when the log alone would have alarmed; "" without an alarm or without a panel."""
    if run.settings.source is not guard.Source.BOTH or run.alarm_step is None:
        return ""
    settings = replace(run.settings, source=guard.Source.LOG)
    log = take(Followed(settings), {"log": run.known["log"]})
    if log.alarm_step is None:
        return "The log alone has not alarmed so far."
    later = log.alarm_step - run.alarm_step
    return f"The log alone alarms at step {log.alarm_step}, {later} steps later."


def _in_order(known: Mapping[str, Mapping[int, Seen]]) -> list[Seen]:
    """Sort observations by step; a step's reward precedes its look, as its policy is older."""
    every = [seen for of in known.values() for seen in of.values()]
    return sorted(every, key=lambda seen: (seen.step, isinstance(seen, guard.Look)))


def _observe(run: Followed, observations: list[Seen]) -> Followed:
    state = run.state or guard.start(run.settings)
    points, decision, alarm_step = list(run.points), run.decision, run.alarm_step
    for seen in observations:
        state, decision = guard.observe(state, seen)
        is_look = isinstance(seen, guard.Look)
        value = sum(seen.rates) / len(seen.rates) if isinstance(seen, guard.Look) else seen.reward
        points.append(Point(seen.step, value, is_look, state.average, decision.log_evidence))
        if alarm_step is None and decision.verdict is guard.Verdict.ALARM:
            alarm_step = seen.step
            break  # later observations cannot revoke an alarm
    return replace(run, state=state, points=tuple(points), decision=decision, alarm_step=alarm_step)
