"""DPO on graded pairs: of two completions of one problem, prefer the one that passed.

L = mean over pairs of -log sigmoid(h), h = beta (log r_w - log r_l), r = pi / reference, over every
pair of a completion w that passed and one l of the same group that did not.
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
    """What DPO reads: neither rewards nor the sampler's logprobs, only who passed."""

    dpo_beta: float = setting(0.1, "how strongly DPO holds on to the reference", ABOVE_ZERO)
    token_aggregation: str = setting("sum", "a completion's logprob is the sum of its tokens'")


def pair_loss(settings: DpoSettings, differences: np.ndarray) -> PairLoss:
    """-log sigmoid(h), h = beta x difference; its slope by the difference is -beta sigmoid(-h)."""
    h = settings.dpo_beta * differences
    # sigmoid(-h) = exp(-log(1 + exp(h))), without overflow.
    slope = -settings.dpo_beta * np.exp(-np.logaddexp(0, h))
    return PairLoss(np.logaddexp(0, -h), slope, h)


def check(settings: DpoSettings) -> Mapping[str, Rule]:
    """A pair needs two completions, and a completion all of its tokens."""
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
