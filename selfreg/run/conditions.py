"""Defines the conditions: the keys that each name sets, and the level at which its control acts.

A condition is a named triple: the update rule, the control within a campaign, and the control
between campaigns. A condition sets only keys that the config leaves open. A key that the config
sets itself is never overridden.
"""

from typing import Any

# learn.* is the update rule; `within` and `between` name files of selfreg/control.
CONDITIONS: dict[str, dict[str, Any]] = {
    # Between campaigns.
    "A0": {},  # naive: the end rolls forward
    "A1": {"between": "memory"},  # records, and never acts
    "A2": {"between": "gate"},  # CARE v2's gate: reuse, pilot or reject by end / peak
    "A3": {"between": "care_v2"},  # A2, whose threshold learns from wrong predictions
    "A4": {"between": "care_kdim"},  # A3, which a fall of cpp overrides
    "A2v1": {"between": "gate_v1"},  # CARE v1: a collapse halves the learning rate
    "A3v1": {"between": "care_v1"},  # A2v1; a wrong prediction multiplies it by 0.7
    "CARE": {"between": "care"},  # appendix D: K capabilities, posterior, gate, revision
    "ES": {"between": "early_stop"},  # the peak rolls forward, and sets the next budget
    # Between campaigns, to compare with.
    "B0": {},  # naive
    "B1": {"between": "best_checkpoint"},  # the peak rolls forward, no gate
    "B2": {"between": "random_search"},  # over learning rate and KL
    "B3": {"between": "llm_search"},  # a language model searches the same grid
    "B4": {"between": "care_v1"},  # A3v1
    "M1": {"between": "morbo_proxy"},  # random, biased to the Pareto front
    "M2": {"between": "bayesian_search"},  # BoTorch
    "EQ": {"between": "matched"},  # naive, with the updates that another run made
    # Within campaigns; the peak rolls forward.
    "ONLINE": {"within": "early_stop", "between": "best_checkpoint"},
    "PREDICT": {"within": "predictor", "between": "best_checkpoint"},
    "ROLLBACK": {"within": "predictor", "between": "best_checkpoint", "control.max_restores": 2},
    "GUARD": {"within": "guard", "between": "best_checkpoint", "control.max_restores": 2},
    # Inside the update.
    "GRPO": {"learn.algorithm": "grpo"},
    "GRPO+ES": {"learn.algorithm": "grpo", "between": "early_stop"},
    "GRPO+A3": {"learn.algorithm": "grpo", "between": "care_v2"},
}

# The values of keys that neither the config nor its condition sets.
DEFAULTS: dict[str, Any] = {
    "within": "fixed",
    "between": "naive",
    "learn.algorithm": "reinforce",
    "control.max_restores": 0,
}
