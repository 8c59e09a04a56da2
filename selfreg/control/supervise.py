"""Supervises a campaign: applies the plan's budget, and decides what an early stop becomes.

Everything here is pure, so that a resumed run and a replay of a stored run reach the same verdicts.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from selfreg.control.protocol import Base, Within
from selfreg.run.records import Plan, StepRecord, Verdict


@dataclass(frozen=True, slots=True)
class Supervision:
    """The state of a campaign's control after a step.

    Attributes:
      within: The control within the campaign.
      base: The config's values for controls.
      plan: The campaign's plan.
      state: The control's own state.
      verdict: The verdict after the last step.
      restores: How often the campaign has gone back to its peak.
    """

    within: Within
    base: Base
    plan: Plan
    state: Any
    verdict: Verdict = Verdict.CONTINUE
    restores: int = 0


def begin(within: Within, base: Base, plan: Plan) -> Supervision:
    """Start supervising before the first step; a budget of 0 stops the campaign there."""
    verdict = Verdict.CONTINUE if plan.budget_steps else Verdict.STOP
    return Supervision(within, base, plan, within.start(base, plan), verdict)


def observe(supervision: Supervision, record: StepRecord) -> Supervision:
    """Judge the campaign after the update of this record.

    A used-up budget stops every campaign. A control's own STOP becomes RESTORE_PEAK while
    base.options["max_restores"] allows it: the control then starts anew, and the campaign goes on
    from its peak with the rest of its budget.
    """
    within, base, plan = supervision.within, supervision.base, supervision.plan
    state, verdict = within.observe(supervision.state, record)
    restores = supervision.restores
    if record.step + 1 >= plan.budget_steps:
        verdict = Verdict.STOP
    elif verdict is not Verdict.CONTINUE:
        can_restore = restores < base.options.get("max_restores", 0)
        verdict = Verdict.RESTORE_PEAK if can_restore else Verdict.STOP
    if verdict is Verdict.RESTORE_PEAK:
        state = within.start(base, plan)
        restores += 1
    return replace(supervision, state=state, verdict=verdict, restores=restores)


class Rates(NamedTuple):
    """The peak learning rate and the weight of the KL penalty."""

    lr: float
    kl_coef: float


def rates(supervision: Supervision) -> Rates:
    """Return the rates of the next update.

    Each restore multiplies the learning rate by options["restore_lr_factor"], and raises the KL
    weight to options["restore_kl_coef"] if it is lower.
    """
    plan, options = supervision.plan, supervision.base.options
    if not supervision.restores:
        return Rates(plan.lr, plan.kl_coef)
    lr = plan.lr * options["restore_lr_factor"] ** supervision.restores
    return Rates(lr, max(plan.kl_coef, options["restore_kl_coef"]))
