"""The guard's decision as plain English."""

from selfreg.guard.records import Decision, Settings, Verdict


def sentence(decision: Decision, settings: Settings, step: int, best: str = "") -> str:
    """Describe in one or two sentences where a run stands.

    Args:
      decision: The latest decision.
      settings: The settings of the guard.
      step: The step that the run has reached.
      best: Path of the best checkpoint; "" if none is kept.
    """
    where = f" Best checkpoint: {best}." if best else ""
    if decision.reference is None:
        return f"Step {step}: nothing has been measured yet."
    if decision.verdict is not Verdict.ALARM:
        return (
            f"Step {step}: no evidence that the policy is worse than at step "
            f"{decision.reference}, its best so far.{where}"
        )
    fall = "" if decision.fall is None else f" by about {decision.fall:.2f}"
    return (
        f"The policy at step {step} is worse than at step {decision.reference}{fall}. "
        "If the policy never got worse, fewer than 1 in "
        f"{1 / settings.alpha:.0f} whole runs would raise an alarm.{where}"
    )
