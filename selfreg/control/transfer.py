"""CARE's transfer gate chooses a strategy for a context, and the action to apply it with.

The paper's appendix D.2. This module corrects three slips:

* The paper's four cases overlap and leave gaps. Here they are checked in order, and the last takes
  the rest. p_max is compared with alpha, gamma with two levels; d is the distance to the nearest
  context in which the strategy is known:

      reject   p_max > alpha
      reuse    inside the boundary, gamma > gamma_high
      adapt    inside the boundary, gamma > gamma_low, d > context_distance
      pilot    all else: little confidence, or outside the boundary

  In the paper a context outside the boundary leads to both reuse and pilot. Here it is a pilot;
  otherwise nothing would read the boundary.
* Equation 2 maximizes over the action, but the posterior does not depend on it. Here the cases
  choose the action, and the predicted mean of the target chooses the strategy.
* The posterior of an untried strategy has mean 0. By the mean alone, a strategy that gained once
  would be chosen for ever. Appendix G describes the prototype, which this code follows: evaluate
  past strategies for transfer, and propose a new one when none transfers.
"""

from collections.abc import Sequence
from typing import NamedTuple

from selfreg.control.strategy import Strategy

REUSE, ADAPT, PILOT, REJECT = "reuse", "adapt", "pilot", "reject"


class Levels(NamedTuple):
    """The levels that the gate compares with."""

    alpha: float
    gamma_low: float
    gamma_high: float
    context_distance: float


class Candidate(NamedTuple):
    """A strategy as the gate sees it.

    Attributes:
      strategy: The strategy.
      target_mean: The predicted change of "main".
      p_max: The largest probability that a protected capability regresses.
      confidence: gamma; 0 for a strategy that was never tried.
      distance: The distance to the nearest context in which it was tried; inf without one.
      inside: Whether the context is inside the strategy's boundary.
      is_new: Whether it is a new proposal, and not from the memory.
    """

    strategy: Strategy
    target_mean: float
    p_max: float
    confidence: float
    distance: float
    inside: bool
    is_new: bool


def route(candidate: Candidate, levels: Levels) -> str:
    """Return the action; every candidate has exactly one."""
    if candidate.p_max > levels.alpha:
        return REJECT
    if candidate.inside and candidate.confidence > levels.gamma_high:
        return REUSE
    if (
        candidate.inside
        and candidate.confidence > levels.gamma_low
        and candidate.distance > levels.context_distance
    ):
        return ADAPT
    return PILOT


def choose(candidates: Sequence[Candidate], levels: Levels) -> tuple[Candidate, str] | None:
    """Return the best candidate and its action; None where all candidates are rejected.

    A transfer (reuse, adapt) comes before a pilot, and a pilot of a new strategy before one of an
    old strategy. Then the larger predicted gain decides, and then the order of the candidates.
    """
    routed = [(candidate, route(candidate, levels)) for candidate in candidates]
    allowed = [(candidate, action) for candidate, action in routed if action != REJECT]
    return max(allowed, key=_preference, default=None)


def _preference(pair: tuple[Candidate, str]) -> tuple[bool, bool, float]:
    candidate, action = pair
    transfers = action != PILOT
    return transfers, candidate.is_new and not transfers, candidate.target_mean
