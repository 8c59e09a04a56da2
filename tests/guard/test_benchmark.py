"""The benchmark's vectorized guard equals the guard of the package, run by run."""

import numpy as np
import pytest

from benchmarks import guard_rules, guard_runs
from selfreg.guard import Look, Settings, Verdict, observe, start


def first_alarm(rates, alpha):
    state = start(Settings(alpha=alpha, planned=len(rates)))
    for look, row in enumerate(rates, 1):
        state, decision = observe(state, Look(look, row))
        if decision.verdict is Verdict.ALARM:
            return look
    return guard_rules.NEVER


@pytest.mark.parametrize("drop", [0.0, 0.12, 0.3])
def test_vectorized_runs_alarm_at_the_same_look_as_single_runs(drop):
    rng = np.random.default_rng(0)
    rates = guard_runs.fall(rng, 6, 40, 40, drop, change=20, over=2)
    measured = rng.binomial(4, rates) / 4
    together = guard_rules.guard(measured, 40, 0.02)
    for alpha in guard_rules.ALPHAS:
        assert together[alpha].tolist() == [first_alarm(run, alpha) for run in measured]


@pytest.mark.parametrize("kind", guard_runs.nulls(0.02))
def test_null_runs_never_fall_by_more_than_the_margin(kind):
    """Check the mean over a population of problems; in some kinds a panel varies by chance."""
    rates = guard_runs.nulls(0.02)[kind](np.random.default_rng(0), 4, 50, 5000)
    mean = np.broadcast_to(rates, (4, 50, 5000)).mean(axis=-1)
    below = np.maximum.accumulate(mean, axis=1) - mean
    assert below.max() <= 0.02 + (0.015 if kind in ("churn", "skewed trade") else 1e-6)
    assert rates.min() >= 0
    assert rates.max() <= 1


def test_rules_by_hand():
    means = np.array([[0.5, 0.6, 0.5, 0.5, 0.5], [0.5, 0.6, 0.5, 0.6, 0.5]])
    assert guard_rules.three_declines(means).tolist() == [5, guard_rules.NEVER]
    assert guard_rules.moving_average(means, 0.05).tolist() == [guard_rules.NEVER] * 2
    assert guard_rules.moving_average(means, 0.04).tolist() == [5, guard_rules.NEVER]
