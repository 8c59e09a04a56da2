"""The guard: alarms when the panel is worse than its best was, and rarely without cause.

A campaign whose panel never falls by more than `control.guard_margin` below its best raises a false
alarm with a probability of at most `control.guard_alpha`, however often it is measured. See
selfreg.guard for the test and its assumptions. Alpha is divided among 1 + `control.max_restores`
episodes, one from each restore to the next. Each episode starts with nothing measured.
"""

from dataclasses import dataclass, replace

from selfreg import guard
from selfreg.control.calibrate import PANEL
from selfreg.control.protocol import Base, Within
from selfreg.run.records import Plan, StepRecord, Verdict


@dataclass(frozen=True, slots=True)
class State:
    """The guard's memory, and its last decision; None before the panel is measured."""

    memory: guard.State
    decision: guard.Decision | None = None


def start(base: Base, plan: Plan) -> State:
    """Start an episode with its share of alpha. The last step's panel comes too late to stop."""
    options = base.options
    settings = guard.Settings(
        alpha=options["guard_alpha"] / (1 + options["max_restores"]),
        margin=options["guard_margin"],
        planned=max(2, -(-plan.budget_steps // base.panel_every_steps)),
    )
    return State(guard.start(settings))


def observe(state: State, record: StepRecord) -> tuple[State, Verdict]:
    """Read the panel, if this step measured it.

    Raises:
      ValueError: The panel's rates by problem are missing, or too few for an alarm ever.
    """
    if not record.rates:
        if PANEL in record.metrics:
            raise ValueError(
                f"campaign {record.campaign}, step {record.step} has {PANEL} without its rates by "
                "problem, which the guard needs: an older version wrote this run"
            )
        return state, Verdict.CONTINUE
    memory, decision = guard.observe(state.memory, guard.Look(record.step, record.rates))
    alarms = decision.verdict is guard.Verdict.ALARM
    state = replace(state, memory=memory, decision=decision)
    return state, Verdict.STOP if alarms else Verdict.CONTINUE


CONTROL = Within(start, observe)
