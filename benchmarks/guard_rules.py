"""The rules that benchmarks.guard compares. Each returns its first alarm in simulated runs."""

import logging
import math
from collections.abc import Callable

import numpy as np

from selfreg.guard import Logged, Settings, Source, Verdict, observe, panel, start
from selfreg.guard.signflip import log_bound, log_p
from selfreg.guard.weights import blocks

NEVER = 0  # looks are counted from 1
ALPHAS = (0.05, 0.01)


def guard(rates: np.ndarray, planned: int, margin: float) -> dict[float, np.ndarray]:
    """Return the look of each run's first alarm by alpha, with the guard's own arithmetic.

    Args:
      rates: float64 [runs, looks, problems].
      planned: The guard's setting for the number of looks.
      margin: The guard's margin.
    """
    runs, looks, problems = rates.shape
    sums = np.zeros((runs, looks + 1, problems))
    np.cumsum(rates, axis=1, out=sums[:, 1:])
    first = {alpha: np.zeros(runs, np.int64) for alpha in ALPHAS}
    largest = max(ALPHAS)
    for look in range(2, looks + 1):
        compared = blocks(look)
        fallen = panel.falls(sums, compared, look, margin)
        bounds = log_bound(fallen)
        weights = panel.log_weights(compared, look, planned)
        evidence = (weights - bounds).max(axis=1)
        for run, at in panel.near(bounds, np.broadcast_to(weights, bounds.shape), largest):
            evidence[run] = max(evidence[run], weights[at] - log_p(fallen[run, at]))
        for alpha, found in first.items():
            found[(found == NEVER) & (evidence >= -math.log(alpha))] = look
    return first


def three_declines(means: np.ndarray, drop: float = 0.02) -> np.ndarray:
    """Alarm after three looks in a row more than `drop` below the best so far.

    Args:
      means: float64 [runs, looks].
      drop: The drop.
    """
    low = np.maximum.accumulate(means, axis=1) - means > drop + 1e-9
    return _first(low[:, 2:] & low[:, 1:-1] & low[:, :-2], 3)


def moving_average(means: np.ndarray, drop: float = 0.05) -> np.ndarray:
    """Alarm if a moving average, e = (e + now) / 2, is more than `drop` below its best so far."""
    average = np.empty_like(means)
    average[:, 0] = means[:, 0]
    for look in range(1, means.shape[1]):
        average[:, look] = (average[:, look - 1] + means[:, look]) / 2
    return _first(np.maximum.accumulate(average, axis=1) - average > drop, 1)


def z_scores(rates: np.ndarray) -> np.ndarray:
    """Return (peak - now) over its standard error, as in the panel of selfreg's predictor."""
    means, errors = rates.mean(axis=-1), rates.std(axis=-1, ddof=1) / math.sqrt(rates.shape[-1])
    z = np.zeros_like(means)
    peak, at_peak = means[:, 0], errors[:, 0]
    for look in range(1, means.shape[1]):
        now, error = means[:, look], errors[:, look]
        at_peak = np.where(now > peak, error, at_peak)
        peak = np.maximum(peak, now)
        z[:, look] = (peak - now) / np.maximum(np.hypot(at_peak, error), 0.01)
    return z


def above(z: np.ndarray, threshold: float, after: int = 0) -> np.ndarray:
    """Return the first look, not counting the first `after`, whose z exceeds the threshold."""
    return _first(z[:, after:] > threshold, after + 1)


def _first(alarms: np.ndarray, offset: int) -> np.ndarray:
    return np.where(alarms.any(axis=1), alarms.argmax(axis=1) + offset, NEVER)


def guard_log(rewards: np.ndarray, planned: int, alpha: float, margin: float) -> int:
    """Return the step of the guard's first alarm on a log."""
    state = start(Settings(alpha=alpha, margin=margin, planned_steps=planned, source=Source.LOG))
    for step, reward in enumerate(rewards, 1):
        state, decision = observe(state, Logged(step, float(reward)))
        if decision.verdict is Verdict.ALARM:
            return step
    return NEVER


def rlwatch(rewards: np.ndarray) -> int:
    """Run the public package rlwatch with its defaults on the mean reward of each step."""
    from rlwatch.config import RLWatchConfig
    from rlwatch.detectors import DetectorSuite

    suite = DetectorSuite(RLWatchConfig())
    for step, reward in enumerate(rewards, 1):
        if suite.check_step(step, reward_mean=float(reward)):
            return step
    return NEVER


def rldoctor(rewards: np.ndarray) -> int:
    """Run rldoctor's live monitor with its defaults on the mean reward of each step."""
    from rl_doctor.live import LiveMonitor

    logging.getLogger("rl-doctor").setLevel(logging.CRITICAL)
    monitor = LiveMonitor(on_finding=lambda _: None)
    for step, reward in enumerate(rewards, 1):
        if monitor.log({"reward_mean": float(reward)}, step=step):
            return step
    return NEVER


Rule = Callable[[np.ndarray], int]
PEERS: dict[str, Rule] = {"rlwatch": rlwatch, "rldoctor": rldoctor}
