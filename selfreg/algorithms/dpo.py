"""DPO on graded pairs: of two completions of one problem, prefer the one that passed.

L = mean over pairs of -log sigmoid(h), with h = beta (log r_w - log r_l) and r = pi / reference.
The pairs are all (w, l) of one group where completion w passed and completion l did not.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from selfreg.algorithms.parts.algorithm import Algorithm, PairLoss
from selfreg.algorithms.parts.keys import ABOVE_ZERO, Rule, one_of
from selfreg.algorithms.parts.policy_gradient import compares
from selfreg.algorithms.parts.settings import setting


@dataclass(frozen=True)
class DpoSettings:
    """The settings of DPO. It reads who passed, but neither rewards nor the sampler's logprobs."""

    dpo_beta: float = setting(0.1, "strength of the pull towards the reference", ABOVE_ZERO)
    token_aggregation: str = setting("sum", "a completion's logprob is the sum of its tokens'")


def pair_loss(settings: DpoSettings, differences: np.ndarray) -> PairLoss:
    """Return -log sigmoid(h) with h = beta x difference, and its slope -beta sigmoid(-h)."""
    h = settings.dpo_beta * differences
    # sigmoid(-h) = exp(-log(1 + exp(h))); logaddexp does not overflow.
    slope = -settings.dpo_beta * np.exp(-np.logaddexp(0, h))
    return PairLoss(np.logaddexp(0, -h), slope, h)


def check(settings: DpoSettings) -> Mapping[str, Rule]:
    """Require groups of two or more completions, and tokens that are summed."""
    return {
        "learn.token_aggregation": one_of("sum"),
        "rollout.group_size": compares("learn.algorithm='dpo'"),
    }


ALGORITHM = Algorithm(
    "Rafailov et al. 2023, arXiv:2305.18290, eq. 7",
    DpoSettings(),
    pair_loss=pair_loss,
    check=check,
)
