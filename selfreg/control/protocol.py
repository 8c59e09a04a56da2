"""What a control is, at each of the two levels above the update."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from selfreg.records import Plan, StepRecord, Trace, Verdict


@dataclass(frozen=True, slots=True)
class Base:
    """The hyperparameters that a config gives a chain; a control may depart from them.

    Attributes:
      budget_steps: Updates a campaign may make.
      lr: Peak learning rate.
      kl_coef: Weight of the KL penalty.
    """

    budget_steps: int
    lr: float
    kl_coef: float


class Within(NamedTuple):
    """A control within a campaign.

    Attributes:
      start: Plan -> state, at the first step.
      observe: (state, record) -> (state, verdict), after each update.
    """

    start: Callable[[Plan], Any]
    observe: Callable[[Any, StepRecord], tuple[Any, Verdict]]


class Between(NamedTuple):
    """A control between campaigns.

    States are frozen dataclasses of plain data, saved as JSON with the run.

    Attributes:
      start: Base -> state, before the first campaign.
      plan: state -> the next campaign's plan.
      observe: (state, trace of the finished campaign) -> state.
    """

    start: Callable[[Base], Any]
    plan: Callable[[Any], Plan]
    observe: Callable[[Any, Trace], Any]


class Condition(NamedTuple):
    """A named pair of controls; what the update does is the config's."""

    within: Within
    between: Between
