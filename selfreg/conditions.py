"""The conditions: what each name sets of a config, and where its control sits.

A condition is a named triple: what the update does, the control within a campaign, the control
between campaigns. The config sets whatever a condition leaves alone; a key that the config sets
itself is never overridden.
"""

from typing import Any

# Of each level: learn.* is the update, `within` and `between` name files of selfreg/control.
CONDITIONS: dict[str, dict[str, Any]] = {
    # Between campaigns.
    "A0": {},  # naive: the end rolls forward
    "ES": {"between": "early_stop"},  # the peak does, and sets the next budget
    # Within campaigns; the peak rolls forward.
    "ONLINE": {"within": "early_stop", "between": "best_checkpoint"},
    "PREDICT": {"within": "predictor", "between": "best_checkpoint"},
    "ROLLBACK": {"within": "predictor", "between": "best_checkpoint", "control.max_restores": 2},
    # Inside the update.
    "GRPO": {"learn.algorithm": "grpo"},
    "GRPO+ES": {"learn.algorithm": "grpo", "between": "early_stop"},
}

# What a config sets where neither it nor its condition says otherwise.
DEFAULTS: dict[str, Any] = {
    "within": "fixed",
    "between": "naive",
    "learn.algorithm": "reinforce",
    "control.max_restores": 0,
}
