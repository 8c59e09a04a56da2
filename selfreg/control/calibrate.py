r"""Calibrates the predictor: how high its score climbs when nothing happens, and its threshold.

A *stationary* campaign is one whose policy does not move. Its steps are exchangeable: each step
draws new problems and seeds, and nothing carries over. So a campaign made of steps of a few long
runs at a learning rate of about 0, resampled in any order, is as good as a new one. (Adam's moments
do carry over: updates shrink over a campaign's first steps. A resampled series rises more often
than a real one, which only makes false alarms rarer.)

The panel is the exception. It asks the same questions with the same seeds at every step. On a
frozen policy it does not vary at all, and any policy that moves would alarm. Its scores are
therefore drawn as if each measurement had its own seeds: a pass rate for each problem from its
Beta(passed + 1/2, failed + 1/2) posterior, then a binomial count at each measurement. A policy that
moves without getting better or worse varies by less than this, so the panel raises no more false
alarms than promised.

The threshold is split-conformal (Vovk et al. 2005; Lei et al. 2018, section 2.2): of the sorted
maxima of n stationary campaigns, the ceil((n + 1)(1 - rate))-th. The maximum of one more campaign
exceeds it with a probability of at most `rate`.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from selfreg.control.protocol import Base
from selfreg.run.records import StepRecord, Trace, find_peak

HOW = (
    "run a few seeds that do not learn, --config.optimizer.lr=1e-12 --config.within=fixed, then "
    "python -m selfreg.calibrate --runs=THEIR_FOLDER --out=FILE.json, and set "
    "--config.control.predictor_calibration=FILE.json"
)
# An indicator's unit is the value that it exceeds in this share of stationary campaigns, or 1.
PANEL_UNIT_RATE, UNIT_RATE = 0.05, 0.005

PANEL, PANEL_SE = "panel_pass_at_1", "panel_pass_at_1_se"

# A predictor: the z of every indicator after each step of a campaign.
Judge = Callable[[Sequence[StepRecord]], Iterator[Mapping[str, float]]]


@dataclass(frozen=True, slots=True)
class Pool:
    """The steps and panels of stationary runs, to resample from.

    Attributes:
      steps: The steps that made an update.
      passed: int64 [N], the passed completions of each panel problem, by independent seeds.
      drawn: int64 [N], all completions of each panel problem.
      panel_samples: Completions of each panel problem at one measurement.
      panel_every: Steps between two measurements.
    """

    steps: tuple[StepRecord, ...]
    passed: np.ndarray
    drawn: np.ndarray
    panel_samples: int
    panel_every: int


def stationary(pool: Pool, steps: int, rng: np.random.Generator) -> list[StepRecord]:
    """Draw a campaign in which nothing happens: steps of the pool, and new panels."""
    rates = rng.beta(pool.passed + 0.5, pool.drawn - pool.passed + 0.5)
    drawn = [pool.steps[i] for i in rng.integers(len(pool.steps), size=steps)]
    return [
        StepRecord(0, step, {**_samples(record), **_panel(pool, rates, step, rng)})
        for step, record in enumerate(drawn)
    ]


def _samples(record: StepRecord) -> dict[str, float]:
    return {n: v for n, v in record.metrics.items() if not n.startswith("panel_")}


def _panel(pool: Pool, rates: np.ndarray, step: int, rng: np.random.Generator) -> dict[str, float]:
    if step % pool.panel_every:
        return {}
    passed = rng.binomial(pool.panel_samples, rates) / pool.panel_samples
    error = float(np.std(passed, ddof=1) / math.sqrt(len(passed)))
    return {PANEL: float(passed.mean()), PANEL_SE: error}


def calibrate(
    pool: Pool,
    judge: Judge,
    budgets: Sequence[int],
    traces: int,
    seed: int,
    indicators: Sequence[str] = (),
) -> dict[str, Any]:
    """Compute the units of the indicators, and the sorted maxima of the score.

    Args:
      pool: The stationary runs.
      judge: The predictor.
      budgets: The lengths of the campaigns that need thresholds, in steps.
      traces: How many stationary campaigns to draw for the units, and as many for the maxima.
      seed: The seed of the draws.
      indicators: The indicators to read; empty for all that the pool's steps have.

    Returns:
      For each budget the `units` of the indicators and the sorted `maxima`, as a calibration file
      holds them. Units depend on the budget: more steps stretch a heavy tail further than a panel.
    """
    rng = np.random.default_rng(seed)
    # Units and maxima come from different campaigns: a unit fits its own campaigns too well.
    for_units, for_maxima = (
        [[*judge(stationary(pool, max(budgets), rng))] for _ in range(traces)] for _ in range(2)
    )
    names = {n: None for zs in for_units for n in zs[-1] if n in (indicators or zs[-1])}
    made = {}
    for budget in budgets:
        units = {name: _unit(name, [zs[:budget] for zs in for_units]) for name in names}
        maxima = [max(score(z, units) for z in zs[:budget]) for zs in for_maxima]
        made[str(budget)] = {"units": units, "maxima": [round(m, 4) for m in sorted(maxima)]}
    return made


def _unit(name: str, campaigns: Sequence[Sequence[Mapping[str, float]]]) -> float:
    maxima = [max(z.get(name, 0.0) for z in zs) for zs in campaigns]
    rate = PANEL_UNIT_RATE if name == PANEL else UNIT_RATE
    return round(max(1.0, order_statistic(maxima, rate)), 4)


def score(z: Mapping[str, float], units: Mapping[str, float]) -> float:
    """Return the largest z in units; 0 where no indicator with a unit is on its bad side."""
    return max([0.0, *(z[name] / unit for name, unit in units.items() if name in z)])


def least_traces(rate: float) -> int:
    """Return the maxima that a false-alarm rate needs: the least n >= ceil((n + 1)(1 - rate))."""
    return math.ceil(round((1 - rate) / rate, 9))


def order_statistic(maxima: Sequence[float], rate: float) -> float:
    """Return the ceil((n + 1)(1 - rate))-th smallest of n maxima; `rate` bounds how often it errs.

    Raises:
      ValueError: There are too few maxima for this rate.
    """
    count = len(maxima)
    if count < least_traces(rate):
        raise ValueError(
            f"a false-alarm rate of {rate:g} needs at least {least_traces(rate)} stationary "
            f"campaigns, there are {count}: allow more, or calibrate with more --traces"
        )
    rank = math.ceil(round((count + 1) * (1 - rate), 9))
    return sorted(maxima)[rank - 1]


class Fit(NamedTuple):
    """A calibration for one budget: the indicators' units, and the score above which it alarms."""

    units: Mapping[str, float]
    threshold: float


def fit_to(base: Base, budget_steps: int) -> Fit:
    """Look up the units, and the score that a stationary campaign exceeds at the user's rate.

    If the calibration lacks this budget, the next longer one applies: a maximum over more steps is
    no smaller.

    Raises:
      ValueError: The calibration is for another model, or its campaigns are too short or too few.
    """
    calibration, key = base.calibration, "config.control.predictor_calibration"
    if not calibration:
        raise ValueError(f"{key} is missing: {HOW}")
    if calibration["model"] != base.model:
        raise ValueError(
            f"{key} is of model.path={calibration['model']!r}, this run's is {base.model!r}: {HOW}"
        )
    budgets = sorted(map(int, calibration["budgets"]))
    longer = [budget for budget in budgets if budget >= budget_steps]
    if not longer:
        raise ValueError(
            f"{key} is of campaigns of up to {budgets[-1]} steps, this one has {budget_steps}: "
            f"{HOW}, with --budgets={budget_steps}"
        )
    made = calibration["budgets"][str(longer[0])]
    return Fit(made["units"], order_statistic(made["maxima"], base.options["false_alarm_rate"]))


class Fall(NamedTuple):
    """The steps at which a campaign's panel peaked and first dropped from its running peak.

    Attributes:
      peak: The peak of the whole campaign.
      beyond_noise: The first step with peak - now > 2 sqrt(se_peak^2 + se_now^2), or None.
      below_half: The first step with now < peak / 2, or None.
    """

    peak: int
    beyond_noise: int | None
    below_half: int | None


def fall_of(trace: Trace) -> Fall:
    """Find how a campaign's panel fell."""
    rows = [(r.step, r.metrics) for r in trace.records if PANEL in r.metrics]
    best, error = -math.inf, 0.0
    beyond_noise, below_half = None, None
    for step, metrics in rows:
        value, its_error = metrics[PANEL], metrics[PANEL_SE]
        if value > best:
            best, error = value, its_error
        if beyond_noise is None and best - value > 2 * math.hypot(error, its_error):
            beyond_noise = step
        if below_half is None and value < best / 2:
            below_half = step
    return Fall(find_peak(trace.records, PANEL).step, beyond_noise, below_half)
