"""The guard: watch a run and raise an alarm when its policy is worse than its best checkpoint.

    state = start(Settings(alpha=0.05, planned=200))
    state, decision = observe(state, Look(step, rates))   # mean reward of each panel problem
    state, decision = observe(state, Logged(step, reward))

Null hypothesis: at every look, the mean reward is at least its running best minus the margin. Under
this hypothesis P(any alarm in the whole run) <= alpha, for any number of looks and any length of
run. selfreg.guard.panel and selfreg.guard.logged state the assumptions. The package needs only
NumPy and SciPy.
"""

from selfreg.guard.observe import level, observe, start
from selfreg.guard.records import (
    Confirmed,
    Decision,
    Logged,
    Look,
    Observation,
    Restored,
    Settings,
    Source,
    State,
    Verdict,
    from_json,
    to_json,
)

__all__ = [
    "Confirmed",
    "Decision",
    "Logged",
    "Look",
    "Observation",
    "Restored",
    "Settings",
    "Source",
    "State",
    "Verdict",
    "from_json",
    "level",
    "observe",
    "start",
    "to_json",
]
