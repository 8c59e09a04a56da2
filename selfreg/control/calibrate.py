r"""How high the predictor's score climbs when nothing happens, and the threshold that follows.

A *stationary* campaign is one whose policy does not move. Its steps are exchangeable: problems and
seeds are drawn anew at each, and nothing carries over. So whole steps of a few long runs at a
learning rate of about 0, drawn again one by one in any order, are as good as new campaigns. (Adam's
moments do carry over: the size of an update shrinks over a campaign's first steps. Drawn from all
steps it rises more often than it really does, so this errs on the side of fewer false alarms.)

The panel is the exception. It asks the same questions with the same seeds at every step, so that on
a frozen policy it does not vary at all, and any policy that moves would alarm. Its scores are
drawn instead as if each measurement had seeds of its own: a pass rate for each problem from its
Beta(passed + 1/2, failed + 1/2) posterior, then a binomial count at each measurement. A policy that
moves without getting better or worse varies by something between nothing and this, so the false
alarms of the panel are at most those that are promised.

The threshold is split-conformal (Vovk et al. 2005; Lei et al. 2018, section 2.2): with the maxima
of n stationary campaigns sorted, the ceil((n + 1)(1 - rate))-th. The maximum of one more exceeds it
with a probability of at most `rate`.
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
# What an indicator exceeds in this share of stationary campaigns is its unit, 1 at least.
PANEL_UNIT_RATE, UNIT_RATE = 0.05, 0.005

PANEL, PANEL_SE = "panel_pass_at_1", "panel_pass_at_1_se"

# The z of every indicator after each step: what a predictor makes of a campaign.
Judge = Callable[[Sequence[StepRecord]], Iterator[Mapping[str, float]]]


@dataclass(frozen=True, slots=True)
class Pool:
    """What stationary runs left, to draw from.

    Attributes:
      steps: Those that made an update.
      passed: int64 [N], of each panel problem's completions by independent seeds.
      drawn: int64 [N], those completions.
      panel_samples: Completions a panel problem at one measurement.
      panel_every: Steps between two measurements.
    """

    steps: tuple[StepRecord, ...]
    passed: np.ndarray
    drawn: np.ndarray
    panel_samples: int
    panel_every: int


def stationary(pool: Pool, steps: int, rng: np.random.Generator) -> list[StepRecord]:
    """A campaign in which nothing happens: steps of the pool, and panels drawn anew."""
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
    """The units of the indicators, and the sorted maxima of the score.

    Args:
      pool: Of stationary runs.
      judge: The predictor.
      budgets: Steps of the campaigns that thresholds are wanted for.
      traces: Stationary campaigns to draw, for units and for maxima each.
      seed: Of what is drawn.
      indicators: Those that are to be read; empty: all that the pool's steps have.

    Returns:
      By budget the `units` of the indicators and the sorted `maxima`, as a calibration file holds
      them. Each budget has its own units: heavy tails gain more from more steps than a panel does.
    """
    rng = np.random.default_rng(seed)
    # Maxima are of other campaigns than units: a unit fits those that it was taken from.
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
    """The largest z in units; 0 where no indicator that has a unit is on its bad side."""
    return max([0.0, *(z[name] / unit for name, unit in units.items() if name in z)])


def least_traces(rate: float) -> int:
    """How many maxima a false-alarm rate needs: the least n with ceil((n + 1)(1 - rate)) <= n."""
    return math.ceil(round((1 - rate) / rate, 9))


def order_statistic(maxima: Sequence[float], rate: float) -> float:
    """The ceil((n + 1)(1 - rate))-th smallest of n maxima: the next exceeds it with at most `rate`.

    Raises:
      ValueError: There are too few for this rate.
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
    """What a calibration says of a budget: the indicators' units, and the score that alarms."""

    units: Mapping[str, float]
    threshold: float


def fit_to(base: Base, budget_steps: int) -> Fit:
    """The units, and the score that a stationary campaign exceeds with the user's probability.

    Where the calibration does not hold this very budget, the next longer one's: a maximum over
    more steps is no smaller.

    Raises:
      ValueError: The calibration is of another model, or too short, or of too few campaigns.
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
    """The steps of a campaign's panel: its peak, and the first drops from the running peak.

    Attributes:
      peak: Of the whole campaign, the first.
      beyond_noise: Where peak - now > 2 sqrt(se_peak^2 + se_now^2); None: nowhere.
      below_half: Where now < peak / 2; None: nowhere.
    """

    peak: int
    beyond_noise: int | None
    below_half: int | None


def fall_of(trace: Trace) -> Fall:
    """How a campaign's panel fell."""
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
