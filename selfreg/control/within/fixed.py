"""Fixed budget: a campaign runs as long as its plan allows."""

from selfreg.control.protocol import Within
from selfreg.records import Plan, StepRecord, Verdict


def start(plan: Plan) -> int:
    """The state is the budget, in updates."""
    return plan.budget_steps


def observe(state: int, record: StepRecord) -> tuple[int, Verdict]:
    """Stop once the update made in this record has used the budget up."""
    return state, Verdict.STOP if record.step + 1 >= state else Verdict.CONTINUE


FIXED = Within(start, observe)
