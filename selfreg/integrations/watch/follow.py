"""Where a watched run stands: pure, from what its log says."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from selfreg import guard
from selfreg.guard.words import sentence
from selfreg.integrations.watch.source import Seen, merge


class Point(NamedTuple):
    """A step as the page shows it.

    Attributes:
      step: Of the run.
      value: The mean reward, of the log or of the panel.
      is_look: Whether it is the panel's.
      average: The guard's moving average.
      log_evidence: Over the alarm line, nats.
    """

    step: int
    value: float
    is_look: bool
    average: float | None
    log_evidence: float


@dataclass(frozen=True)
class Followed:
    """A run that is watched.

    Attributes:
      settings: Of its guard.
      known: All observations, by source ("log", "panel") and step.
      state: The guard's, after them.
      points: One for each of them, in order.
      decision: The last one; None before any.
      alarm_step: Where it alarmed first; None: it has not.
    """

    settings: guard.Settings
    known: Mapping[str, Mapping[int, Seen]] = field(default_factory=dict)
    state: guard.State | None = None
    points: tuple[Point, ...] = ()
    decision: guard.Decision | None = None
    alarm_step: int | None = None


def take(run: Followed, said: Mapping[str, Mapping[int, Seen]]) -> Followed:
    """Take in what the logs say by now; what is merely more is observed alone."""
    known = {name: merge(run.known.get(name, {}), said[name]) for name in said}
    before, now = _in_order(run.known), _in_order(known)
    if now[: len(before)] != before:  # the run was resumed, or another one has begun
        return _observe(Followed(run.settings, known), now)
    return _observe(replace(run, known=known), now[len(before) :])


def words(run: Followed) -> str:
    """Where it stands, in a sentence or two."""
    if run.decision is None:
        return "Nothing has been logged yet."
    return sentence(run.decision, run.settings, run.alarm_step or run.points[-1].step)


def alone(run: Followed) -> str:
    """What the log alone would have said, where a panel was watched beside it; else ""."""
    if run.settings.source is not guard.Source.BOTH or run.alarm_step is None:
        return ""
    settings = replace(run.settings, source=guard.Source.LOG)
    log = take(Followed(settings), {"log": run.known["log"]})
    if log.alarm_step is None:
        return "The log alone has not alarmed by now."
    later = log.alarm_step - run.alarm_step
    return f"The log alone alarms at step {log.alarm_step}, {later} steps later."


def _in_order(known: Mapping[str, Mapping[int, Seen]]) -> list[Seen]:
    """By step; of one step the reward, which is that of the policy before, comes first."""
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
            break  # what comes after cannot take it back
    return replace(run, state=state, points=tuple(points), decision=decision, alarm_step=alarm_step)
