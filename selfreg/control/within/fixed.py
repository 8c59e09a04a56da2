"""Fixed budget: lets a campaign run as long as its plan allows."""

from selfreg.control.protocol import Base, Within
from selfreg.run.records import Plan, StepRecord, Verdict


def start(base: Base, plan: Plan) -> None:
    """Start; there is nothing to remember."""


def observe(state: None, record: StepRecord) -> tuple[None, Verdict]:
    """Go on."""
    return state, Verdict.CONTINUE


CONTROL = Within(start, observe)
