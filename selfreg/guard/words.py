"""What the guard says, in plain English."""

from selfreg.guard.records import Decision, Settings, Verdict


def sentence(decision: Decision, settings: Settings, step: int, best: str = "") -> str:
    """One or two sentences on where a run stands.

    Args:
      decision: The last one.
      settings: As the guard was started.
      step: That the run has reached.
      best: Where the best checkpoint lies; "" where nobody keeps it.
    """
    where = f" Best checkpoint: {best}." if best else ""
    if decision.reference is None:
        return f"Step {step}: nothing has been measured yet."
    if decision.verdict is not Verdict.ALARM:
        return (
            f"Step {step}: no evidence that the policy is worse than that of step "
            f"{decision.reference}, its best so far.{where}"
        )
    fall = "" if decision.fall is None else f" by about {decision.fall:.2f}"
    return (
        f"The policy of step {step} is worse than that of step {decision.reference}{fall}; under a "
        "policy that only stood still or improved, an alarm would happen in fewer than 1 in "
        f"{1 / settings.alpha:.0f} whole runs.{where}"
    )
