"""Simulated runs for benchmarks.guard: pass rates of problems over looks, and logs of steps.

Most kinds of runs draw each problem's rate from a Beta distribution. They differ in how the rates
move over the run.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

Rates = np.ndarray  # float64 [runs, looks, problems] or [runs, 1, problems]
Kind = Callable[[np.random.Generator, int, int, int], Rates]
EDGE = 1e-9


def beta(
    rng: np.random.Generator, runs: int, problems: int, mean: float = 0.6, spread: float = 5.0
) -> Rates:
    """Draw rates [runs, 1, problems] from a Beta distribution with this mean and concentration."""
    rates = rng.beta(mean * spread, (1 - mean) * spread, (runs, 1, problems))
    return np.clip(rates, EDGE, 1 - EDGE)


def move(rates: Rates, target: np.ndarray) -> Rates:
    """Shift the logits of all problems by the same amount, so that each mean is the target.

    Args:
      rates: [runs, 1 or looks, problems], strictly between 0 and 1.
      target: [runs or 1, looks, 1], the means over problems.
    """
    logits = np.log(rates) - np.log1p(-rates)
    low = np.full(np.broadcast_shapes(target.shape, rates[..., :1].shape), -30.0)
    high = -low
    for _ in range(30):
        middle = (low + high) / 2
        too_high = _logistic(logits + middle).mean(axis=-1, keepdims=True) > target
        low, high = np.where(too_high, low, middle), np.where(too_high, middle, high)
    return _logistic(logits + (low + high) / 2)


def _logistic(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def _along(looks: int) -> np.ndarray:
    """Return the progress from 0 to 1 over the looks: [1, looks, 1]."""
    return np.linspace(0, 1, looks)[None, :, None]


def stationary(
    rng: np.random.Generator, runs: int, looks: int, problems: int, mean: float, spread: float = 5.0
) -> Rates:
    """Keep all rates constant."""
    return beta(rng, runs, problems, mean, spread)


def rising(rng: np.random.Generator, runs: int, looks: int, problems: int) -> Rates:
    """Raise the mean from 0.2 to 0.7 early in the run, with a different pace for each problem."""
    first, last = beta(rng, runs, problems, 0.2), beta(rng, runs, problems, 0.7)
    first, last = np.minimum(first, last), np.maximum(first, last)
    pace = rng.uniform(2, 6, (runs, 1, problems))
    return first + (last - first) * np.minimum(1, pace * _along(looks))


def noisy_rise(
    rng: np.random.Generator, runs: int, looks: int, problems: int, margin: float
) -> Rates:
    """Raise the mean from 0.3 to 0.7, with constant dips of up to the margin below its best."""
    target = 0.3 + 0.4 * _along(looks) - margin * rng.random((runs, looks, 1))
    return move(beta(rng, runs, problems), target)


def slow_fall(
    rng: np.random.Generator, runs: int, looks: int, problems: int, margin: float
) -> Rates:
    """Lower the mean linearly by the margin over the whole run."""
    rates = beta(rng, runs, problems)
    return move(rates, rates.mean(axis=-1, keepdims=True) - margin * _along(looks))


def step_fall(
    rng: np.random.Generator, runs: int, looks: int, problems: int, margin: float
) -> Rates:
    """Lower the mean by the margin in one step, at 0.3 of the run."""
    rates = beta(rng, runs, problems)
    fallen = margin * (_along(looks) > 0.3)
    return move(rates, rates.mean(axis=-1, keepdims=True) - fallen)


def churn(rng: np.random.Generator, runs: int, looks: int, problems: int) -> Rates:
    """Let problems trade places: each logit is an independent AR(1) process around 0.5."""
    keep = 1 - 10 / looks if looks > 20 else 0.5
    logits = np.empty((runs, looks, problems))
    logits[:, 0] = rng.normal(0, 1.2, (runs, problems))
    for look in range(1, looks):
        fresh = rng.normal(0, 1.2 * np.sqrt(1 - keep**2), (runs, problems))
        logits[:, look] = keep * logits[:, look - 1] + fresh
    return _logistic(logits + 0.5)


def skewed(rng: np.random.Generator, runs: int, looks: int, problems: int) -> Rates:
    """At 0.3 of the run, lower four problems in five by 0.05, and raise one in five by 0.2."""
    rates = rng.uniform(0.1, 0.8, (runs, 1, problems))
    change = np.where(rng.random((runs, 1, problems)) < 0.2, 0.2, -0.05)
    return rates + change * (_along(looks) > 0.3)


def polarising(rng: np.random.Generator, runs: int, looks: int, problems: int) -> Rates:
    """Move rates towards 0 and 1 with a constant mean."""
    rates = beta(rng, runs, problems, 0.6, 20.0)
    logits = (np.log(rates) - np.log1p(-rates)) * (1 + 7 * _along(looks))
    target = np.broadcast_to(rates.mean(axis=-1, keepdims=True), (runs, looks, 1))
    return move(np.clip(_logistic(logits), EDGE, 1 - EDGE), target)


def nulls(margin: float) -> dict[str, Kind]:
    """Return kinds of runs that no rule should stop. None falls by more than the margin."""
    return {
        **{f"stationary {m:g}": partial(stationary, mean=m) for m in (0.6, 0.15, 0.92)},
        "stationary, spread": partial(stationary, mean=0.6, spread=1.0),
        "stationary, alike": partial(stationary, mean=0.6, spread=20.0),
        "rising": rising,
        "noisy rise": partial(noisy_rise, margin=margin),
        "slow fall of the margin": partial(slow_fall, margin=margin),
        "step down by the margin": partial(step_fall, margin=margin),
        "churn": churn,
        "skewed trade": skewed,
        "polarising": polarising,
    }


def fall(
    rng: np.random.Generator,
    runs: int,
    looks: int,
    problems: int,
    drop: float,
    change: int,
    over: int = 1,
) -> Rates:
    """Lower the mean by `drop` after `change` looks, spread over `over` looks."""
    rates = beta(rng, runs, problems)
    share = np.clip((np.arange(looks) - change + 1) / over, 0, 1)[None, :, None]
    moved = move(rates, rates.mean(axis=-1, keepdims=True) - drop * np.unique(share)[None, :, None])
    at = np.searchsorted(np.unique(share), share[0, :, 0])
    return moved[:, at]


def panels(
    rng: np.random.Generator, kind: Kind, runs: int, looks: int, problems: int, samples: int
) -> np.ndarray:
    """Draw measured rates [runs, looks, problems] for a kind of run."""
    rates = np.broadcast_to(kind(rng, runs, looks, problems), (runs, looks, problems))
    return rng.binomial(samples, rates) / samples


def log_rewards(
    rng: np.random.Generator,
    steps: int,
    samples: int,
    problems: int,
    mean: np.ndarray,
    alike: float = 0.0,
) -> np.ndarray:
    """Draw the mean reward of each step of one run, with new problems at every step.

    Args:
      rng: The random generator.
      steps: The number of steps in the run.
      samples: The number of samples per step.
      problems: The number of problems per step.
      mean: [steps], the mean pass rate.
      alike: The correlation of the difficulty of neighbouring steps, an AR(1) process on logits.

    Returns:
      float64 [steps].
    """
    spread = 5.0
    difficulty = np.zeros(steps)
    if alike:
        fresh = rng.normal(0, 0.3 * np.sqrt(1 - alike**2), steps)
        difficulty[0] = rng.normal(0, 0.3)
        for step in range(1, steps):
            difficulty[step] = alike * difficulty[step - 1] + fresh[step]
    mean = _logistic(np.log(mean) - np.log1p(-mean) + difficulty)[:, None]
    rates = rng.beta(mean * spread, (1 - mean) * spread, (steps, problems))
    return rng.binomial(samples // problems, rates).mean(axis=1) / (samples // problems)
