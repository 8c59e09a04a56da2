"""The guard: watches a run, and alarms when its policy is worse than its best checkpoint was.

    state = start(Settings(alpha=0.05, planned=200))
    state, decision = observe(state, Look(step, rates))   # mean reward of each panel problem
    state, decision = observe(state, Logged(step, reward))

The null hypothesis: at every look the mean reward is at least its running best, less the margin.
P(any alarm in the whole run) <= alpha under it, however often one looks and however long the run
is; selfreg.guard.panel and selfreg.guard.logged say under which assumptions. NumPy and SciPy only.
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
