"""CARE's transfer gate: what to do with a strategy in a context, and which strategy to apply.

The paper's appendix D.2. Slips that are mended here:

* Its four cases overlap and leave gaps. Here they are asked in one order, and the last takes what
  is left (p_max against alpha, gamma against two levels, d the distance to the nearest context that
  the strategy is known in):

      reject   p_max > alpha
      reuse    inside the boundary, gamma > gamma_high
      adapt    inside the boundary, gamma > gamma_low, d > context_distance
      pilot    all else: little confidence, or beyond the boundary

  A context beyond the boundary is both reuse and pilot in the paper; here it is a pilot, as
  otherwise nothing would ever read the boundary.
* Equation 2 maximizes over the action, on which the posterior does not depend. Here the cases
  choose the action, and the target's predicted mean the strategy.
* The posterior of a strategy that was never tried has mean 0, so that by the mean alone one that
  ever gained would be chosen for ever. Appendix G says how the prototype went about it: past
  strategies are evaluated for transfer, and a new one is proposed when no transfer fires.
"""

from collections.abc import Sequence
from typing import NamedTuple

from selfreg.control.strategy import Strategy

REUSE, ADAPT, PILOT, REJECT = "reuse", "adapt", "pilot", "reject"


class Levels(NamedTuple):
    """What the gate compares with."""

    alpha: float
    gamma_low: float
    gamma_high: float
    context_distance: float


class Candidate(NamedTuple):
    """A strategy as the gate sees it.

    Attributes:
      strategy: What it would change.
      target_mean: The predicted delta of "main".
      p_max: The largest probability that a protected capability regresses.
      confidence: gamma; 0 where it was never tried.
      distance: To the nearest context that it was tried in; inf where none.
      inside: The boundary predicate.
      is_new: It is proposed, and not taken from the memory.
    """

    strategy: Strategy
    target_mean: float
    p_max: float
    confidence: float
    distance: float
    inside: bool
    is_new: bool


def route(candidate: Candidate, levels: Levels) -> str:
    """The action: exactly one for whatever there is."""
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
    """The best candidate that is not rejected, and its action; None where all are rejected.

    A transfer (reuse, adapt) goes before a pilot, a pilot of a new strategy before one of an old;
    then the larger predicted gain; then the earlier candidate.
    """
    routed = [(candidate, route(candidate, levels)) for candidate in candidates]
    allowed = [(candidate, action) for candidate, action in routed if action != REJECT]
    return max(allowed, key=_preference, default=None)


def _preference(pair: tuple[Candidate, str]) -> tuple[bool, bool, float]:
    candidate, action = pair
    transfers = action != PILOT
    return transfers, candidate.is_new and not transfers, candidate.target_mean
