"""An online collapse predictor: stops when a leading indicator exceeds what noise explains.

Every indicator is a metric of the step records. It is compared with the campaign's own first steps,
so that policies, problems and scales may differ:

    z = (mean of the last W - median of the first B) / (spread sqrt(1 / W + pi / 2 B))

with B = 8, W = 4, the spread 1.4826 x the median absolute deviation of the first B (the standard
deviation, if they are normal), and pi / 2 B the variance of a median of B. The panel is judged
against its own running peak, z = (peak - now) / sqrt(se_peak^2 + se_now^2), with the standard
errors over problems.

Noise carries some indicators further than others: entropy has heavier tails than a panel. So each z
is divided by its *unit*, the value that it exceeds in few stationary campaigns: one in 20 for the
panel, one in 200 for each other indicator. The score is the largest quotient. The panel gets most
of the false alarms because it gave the earliest warnings in our measurements; the other indicators
catch falls that the panel misses, or sees late because it is measured seldom. The threshold is the
score that a stationary campaign exceeds with a probability of `control.false_alarm_rate`. Units and
thresholds come from a calibration: see selfreg.control.calibrate. Indicators that the calibration
lacks are not read. Nothing is judged in the first B steps, so a campaign of 8 steps or fewer is
never stopped.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from statistics import fmean, median
from typing import NamedTuple

from selfreg.control.calibrate import PANEL, PANEL_SE, fit_to, score
from selfreg.control.protocol import Base, Within
from selfreg.run.records import Plan, StepRecord, Verdict

BASELINE_STEPS, WINDOW_STEPS = 8, 4
MAD_TO_SD = 1.4826
PANEL_RESOLUTION = 0.01  # the panel's spread is 0 when every problem passes, or none does


class Indicator(NamedTuple):
    """A metric whose rise is a bad sign, and how to read it.

    Attributes:
      resolution: The least spread, in the metric's unit or in nats of its logarithm. Without it,
        the least change after equal first steps would be infinite evidence.
      log: Whether to read the logarithm, for a positive metric without a natural scale.
    """

    resolution: float
    log: bool = False


# Falls of entropy and of distinct completions are left out: a policy that improves on few problems
# sharpens as well, and these indicators stopped runs that only rose (docs/log.md).
INDICATORS: Mapping[str, Indicator] = {
    "entropy": Indicator(0.05, log=True),
    "distinct_completions": Indicator(0.1),
    "clip_ratio": Indicator(0.1),
    "invalid_syntax_rate": Indicator(0.1),
    "grad_norm": Indicator(0.05, log=True),
    "update_to_weight_ratio": Indicator(0.05, log=True),
    "k3_kl": Indicator(0.1),
    "approx_kl": Indicator(0.01),
    "rollout/logprob_abs_diff": Indicator(0.01),
}


@dataclass(frozen=True, slots=True)
class State:
    """The state of the predictor.

    Attributes:
      units: Each indicator's unit, in standard errors; indicators without one are not read.
      threshold: The score above which the predictor alarms.
      seen: The number of steps observed.
      first: The first B values of each indicator.
      last: The last W values after those.
      peak: The highest panel score, and its standard error.
      z: The z of each indicator judged so far, positive on its bad side.
    """

    units: Mapping[str, float]
    threshold: float
    seen: int = 0
    first: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    last: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    peak: tuple[float, float] = (-math.inf, 0.0)
    z: Mapping[str, float] = field(default_factory=dict)


def leading(state: State) -> str:
    """Return the indicator whose z is largest in units; "" where none was judged."""
    return max(state.z, key=lambda name: state.z[name] / state.units[name], default="")


def read(state: State, record: StepRecord) -> State:
    """Read one step; nothing is judged before there are B steps."""
    first, last, z = dict(state.first), dict(state.last), dict(state.z)
    for name, indicator in INDICATORS.items():
        if name not in state.units or name not in record.metrics:
            continue
        value = _read(indicator, record.metrics[name])
        if len(first.get(name, ())) < BASELINE_STEPS:
            first[name] = (*first.get(name, ()), value)
            continue
        last[name] = (*last.get(name, ()), value)[-WINDOW_STEPS:]
        if len(last[name]) == WINDOW_STEPS:
            z[name] = _z(indicator, first[name], last[name])
    seen, peak = state.seen + 1, state.peak
    if PANEL in state.units and PANEL in record.metrics:
        value, error = record.metrics[PANEL], record.metrics[PANEL_SE]
        peak = max(peak, (value, error))
        if seen > BASELINE_STEPS:
            spread = max(math.hypot(peak[1], error), PANEL_RESOLUTION)
            z[PANEL] = (peak[0] - value) / spread
    return replace(state, seen=seen, first=first, last=last, peak=peak, z=z)


def judge(records: Iterable[StepRecord]) -> Iterator[Mapping[str, float]]:
    """Yield the z of every indicator after each step, for a calibration."""
    state = State(dict.fromkeys((*INDICATORS, PANEL), 1.0), math.inf)
    for record in records:
        state = read(state, record)
        yield state.z


def _read(indicator: Indicator, value: float) -> float:
    # A gradient or an entropy of exactly 0 is possible: all logprobs 0.
    return math.log(max(value, 1e-30)) if indicator.log else value


def _z(indicator: Indicator, first: tuple[float, ...], last: tuple[float, ...]) -> float:
    centre = median(first)
    deviation = MAD_TO_SD * median(abs(value - centre) for value in first)
    error = math.sqrt(1 / len(last) + math.pi / (2 * len(first)))
    return (fmean(last) - centre) / (max(deviation, indicator.resolution) * error)


def start(base: Base, plan: Plan) -> State:
    """Start with nothing observed.

    Raises:
      ValueError: The calibration is for another model, or has no threshold for this budget and
        false-alarm rate; the message says how to make one.
    """
    return State(*fit_to(base, plan.budget_steps))


def observe(state: State, record: StepRecord) -> tuple[State, Verdict]:
    """Stop when the score exceeds the threshold."""
    state = read(state, record)
    alarms = score(state.z, state.units) > state.threshold
    return state, Verdict.STOP if alarms else Verdict.CONTINUE


class Alarm(NamedTuple):
    """The step after which the predictor alarms, and the indicator that causes the alarm."""

    step: int
    indicator: str


def first_alarm(base: Base, budget_steps: int, records: Iterable[StepRecord]) -> Alarm | None:
    """Find where a predictor calibrated for this budget would have stopped these steps."""
    state = start(base, base.plan(0, None, "", budget_steps=budget_steps))
    for record in records:
        state, verdict = observe(state, record)
        if verdict is Verdict.STOP:
            return Alarm(record.step, leading(state))
    return None


CONTROL = Within(start, observe)
