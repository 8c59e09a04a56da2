"""A campaign under its control: the plan's budget, and what an early stop becomes.

Pure, so that a run that is resumed, and a replay of a stored one, come to the same verdicts.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

from selfreg.control.protocol import Base, Within
from selfreg.run.records import Plan, StepRecord, Verdict


@dataclass(frozen=True, slots=True)
class Watch:
    """Where the control of a campaign stands.

    Attributes:
      within: The control.
      base: What the config gives it.
      plan: What the campaign was ordered to do.
      state: The control's own.
      verdict: After the last step.
      restores: How often the campaign went back to its peak.
    """

    within: Within
    base: Base
    plan: Plan
    state: Any
    verdict: Verdict = Verdict.CONTINUE
    restores: int = 0


def begin(within: Within, base: Base, plan: Plan) -> Watch:
    """Before the first step; a budget of 0 is used up there."""
    verdict = Verdict.CONTINUE if plan.budget_steps else Verdict.STOP
    return Watch(within, base, plan, within.start(base, plan), verdict)


def observe(watch: Watch, record: StepRecord) -> Watch:
    """After the update of this record.

    A used-up budget stops every campaign. A control's own STOP becomes RESTORE_PEAK as long as
    base.options["max_restores"] allows: the control then starts anew, and the campaign goes on from
    its peak with the rest of its budget.
    """
    state, verdict = watch.within.observe(watch.state, record)
    restores = watch.restores
    if record.step + 1 >= watch.plan.budget_steps:
        verdict = Verdict.STOP
    elif verdict is not Verdict.CONTINUE:
        can_restore = restores < watch.base.options.get("max_restores", 0)
        verdict = Verdict.RESTORE_PEAK if can_restore else Verdict.STOP
    if verdict is Verdict.RESTORE_PEAK:
        state = watch.within.start(watch.base, watch.plan)
        restores += 1
    return Watch(watch.within, watch.base, watch.plan, state, verdict, restores)


class Rates(NamedTuple):
    """The peak learning rate and the weight of the KL penalty."""

    lr: float
    kl_coef: float


def rates(watch: Watch) -> Rates:
    """Those of the next update.

    Each restore multiplies the learning rate by options["restore_lr_factor"], and the KL weight is
    options["restore_kl_coef"] at least.
    """
    plan, options = watch.plan, watch.base.options
    if not watch.restores:
        return Rates(plan.lr, plan.kl_coef)
    lr = plan.lr * options["restore_lr_factor"] ** watch.restores
    return Rates(lr, max(plan.kl_coef, options["restore_kl_coef"]))
