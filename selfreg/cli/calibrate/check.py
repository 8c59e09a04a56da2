"""Check a calibration on stationary campaigns, and on runs that learn."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table
from scipy.stats import binomtest

from selfreg.analysis.load import find_runs, load_run
from selfreg.analysis.stats import t_interval
from selfreg.control import calibrate
from selfreg.control.protocol import Base
from selfreg.control.replay import Played, replay_campaign
from selfreg.control.within import early_stop, predictor
from selfreg.run.config import default
from selfreg.run.records import Plan, Trace
from selfreg.run.validate import resolve

FRESH_TRACES = 1000


def predictor_base(calibration: Mapping[str, Any], rate: float) -> Base:
    """Return the controls' view of the default config, with this calibration and alarm rate."""
    options = {**resolve(default()).control, "false_alarm_rate": rate}
    return Base(
        budget_steps=0, lr=0.0, metric="panel_pass_at_1", options=options,
        model=calibration["model"], calibration=calibration,
    )  # fmt: skip


def false_alarms(base: Base, pool: calibrate.Pool, budgets: Sequence[int], seed: int) -> Table:
    """Measure how often the predictor alarms on newly drawn stationary campaigns.

    Args:
      base: The controls' view of a config, with the calibration to check.
      pool: Stationary runs, preferably other ones than the calibration was made from.
      budgets: Lengths of the campaigns, in steps.
      seed: Seed of the draws.

    Returns:
      A table with one row for each budget.
    """
    promised = base.options["false_alarm_rate"]
    table = Table(title=f"{FRESH_TRACES} stationary campaigns, promised rate {promised:g}")
    for column in ("steps", "threshold", "false alarms", "95% interval", "by indicator"):
        table.add_column(column)
    rng = np.random.default_rng((seed, 1))  # the calibration itself drew from another stream
    for budget in budgets:
        blame = Counter[str]()
        for _ in range(FRESH_TRACES):
            records = calibrate.stationary(pool, budget, rng)
            alarm = predictor.first_alarm(base, budget, records)
            blame.update([alarm.indicator] if alarm else [])
        interval = binomtest(blame.total(), FRESH_TRACES).proportion_ci(method="exact")
        table.add_row(
            str(budget),
            f"{calibrate.fit_to(base, budget).threshold:.2f}",
            f"{blame.total() / FRESH_TRACES:.3f}",
            f"[{interval.low:.3f}, {interval.high:.3f}]",
            ", ".join(f"{name} {count}" for name, count in blame.most_common(4)),
        )
    return table


class Case(NamedTuple):
    """A campaign that learned: the fall of its panel, and the step of each control's alarm."""

    name: str
    fall: calibrate.Fall
    alarm: predictor.Alarm | None
    early_stop: int | None


def lead_times(base: Base, folder: Path) -> tuple[Table, list[str]]:
    """Compare the steps at which the predictor and early_stop alarm on campaigns that learn.

    Args:
      base: The controls' view of a config, with the calibration to check.
      folder: A folder of runs, whose finished campaigns are used.

    Returns:
      A table of the campaigns, and lines that summarise them.
    """
    cases = [
        _case(base, f"{each.name}/{summary.campaign}", trace, summary.plan)
        for each in find_runs(folder)
        for run in [load_run(each)]
        for trace, summary in zip(run.traces, run.summaries, strict=False)
    ]
    table = Table(title=f"{folder}: the step of each event")
    for column in ("run", "peak", "beyond noise", "below half", "alarm", "by", "early stop"):
        table.add_column(column, justify="left" if column in ("run", "by") else "right")
    for name, fall, alarm, early in cases:
        step, indicator = alarm or (None, None)
        shown = (fall.peak, fall.beyond_noise, fall.below_half, step, indicator, early)
        table.add_row(name, *("-" if event is None else str(event) for event in shown))
    alarms = [case.alarm.step if case.alarm else None for case in cases]
    stops = [case.early_stop for case in cases]
    tallies = []
    for event, of in (("below_half", "fall below half"), ("beyond_noise", "drop beyond noise")):
        falls = [getattr(case.fall, event) for case in cases]
        tallies += [_tally("predictor", of, falls, alarms), _tally("early stop", of, falls, stops)]
    return table, tallies


def _case(base: Base, name: str, trace: Trace, plan: Plan) -> Case:
    alarm = predictor.first_alarm(base, plan.budget_steps, trace.records[:-1])
    decisions = replay_campaign(early_stop.CONTROL, base, Played(plan, trace))
    early = decisions[0].step if decisions else None
    return Case(name, calibrate.fall_of(trace), alarm, early)


def _tally(name: str, event: str, falls: Sequence[int | None], stops: Sequence[int | None]) -> str:
    """Say how often a control alarms, and how many steps before a fall it does so."""
    pairs = list(zip(falls, stops, strict=True))
    leads = [fall - stop for fall, stop in pairs if fall is not None and stop is not None]
    fell = sum(fall is not None for fall, _ in pairs)
    others = [stop is not None for fall, stop in pairs if fall is None]
    words = f"{name}: fires in {len(leads)} of {fell} campaigns that {event}"
    if leads:
        words += f", {np.mean(leads):+.1f} steps before that on average"
    if len(leads) > 1:
        low, high = t_interval(leads)
        words += f", 95% t interval [{low:+.1f}, {high:+.1f}]"
    return f"{words}; in {sum(others)} of {len(others)} others"
