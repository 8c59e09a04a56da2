"""Simulate with the guard which falls a panel or a log could detect, and how late."""

from collections.abc import Iterator
from statistics import median_high

import numpy as np

from selfreg import guard

FALLS = (0.05, 0.1, 0.2, 0.4)
RUNS = 24
SPREAD = 5.0  # concentration of the Beta distribution of the problems' rates
START = 0.3  # share of the run before the fall
LIMIT = 400  # most looks or steps to simulate


def plan(
    settings: guard.Settings, problems: int, samples: int, rate: float = 0.6, seed: int = 0
) -> dict[float, tuple[int | None, float]]:
    """Simulate falls of several sizes.

    Args:
      settings: Settings of the guard, with source PANEL or LOG.
      problems: Problems in the panel, or in a training step.
      samples: Completions per problem.
      rate: Mean pass rate before the fall.
      seed: Seed of the simulated runs.

    Returns:
      For each fall: the median delay in looks or logged steps (None if not found before the end),
      and the share of runs in which it was found.
    """
    is_panel = settings.source is guard.Source.PANEL
    length = min((settings.planned if is_panel else settings.planned_steps) or 200, LIMIT)
    change = max(2, round(START * length))
    found: dict[float, tuple[int | None, float]] = {}
    for fall in (fall for fall in FALLS if fall < rate):
        rng = np.random.default_rng(seed)
        delays = []
        for _ in range(RUNS):
            means = np.where(np.arange(length) < change, rate, rate - fall)
            at = _first_alarm(settings, _run(rng, is_panel, means, problems, samples))
            if at is None or at > change:
                delays.append(length if at is None else at - change)
        share = float(np.mean([delay < length for delay in delays]))
        middle = median_high(delays)
        found[fall] = (None if middle == length else middle, share)
    return found


def words(settings: guard.Settings, problems: int, samples: int, rate: float = 0.6) -> str:
    """Format the plan for the terminal."""
    is_panel = settings.source is guard.Source.PANEL
    unit = "looks" if is_panel else "steps"
    what = "A panel" if is_panel else "A log whose steps each have"
    length = (settings.planned if is_panel else settings.planned_steps) or 200
    lines = [
        f"{what} of {problems} problems x {samples} samples, {length} {unit}, alpha "
        f"{settings.alpha:g}, margin {settings.margin:g}, pass rate {rate:g} before the fall:"
    ]
    for fall, (delay, share) in plan(settings, problems, samples, rate).items():
        late = "not before the end" if delay is None else f"after {delay} {unit}"
        lines.append(f"  a fall of {fall:g} is found {late} (median), in {share:.0%} of runs")
    return "\n".join(lines)


def _run(
    rng: np.random.Generator, is_panel: bool, means: np.ndarray, problems: int, samples: int
) -> Iterator[guard.Look | guard.Logged]:
    ease = rng.beta(means[0] * SPREAD, (1 - means[0]) * SPREAD, problems)
    for step, mean in enumerate(means, 1):
        if not is_panel:
            ease = rng.beta(means[0] * SPREAD, (1 - means[0]) * SPREAD, problems)
        rates = rng.binomial(samples, ease * (mean / means[0])) / samples
        yield guard.Look(step, rates) if is_panel else guard.Logged(step, float(rates.mean()))


def _first_alarm(
    settings: guard.Settings, observations: Iterator[guard.Look | guard.Logged]
) -> int | None:
    state = guard.start(settings)
    for seen in observations:
        state, decision = guard.observe(state, seen)
        if decision.verdict is guard.Verdict.ALARM:
            return seen.step
    return None
