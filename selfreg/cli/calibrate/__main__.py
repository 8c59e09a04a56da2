"""Calibrate the collapse predictor on stationary runs, or check a calibration.

    for seed in 101 102 103 104 105; do
      selfreg train --config=tiny --config.optimizer.lr=1e-12 \
        --config.seed=$seed --config.campaigns=4 --config.campaign_budget_steps=80 \
        --config.evaluation.every_steps=80 --workdir=runs/aa/seed_$seed
    done
    selfreg calibrate --runs=runs/aa --panel_every=4 --out=predictor.json
    selfreg train --config=... --config.control.predictor_calibration=predictor.json

Several seeds are needed, because each seed draws its own panel samples. `--check` measures how
often a calibration alarms: falsely on new stationary campaigns, and in time on stored runs that
learn.

    selfreg calibrate --check=tiny --runs=runs/aa --panel_every=4 --learning=runs/tiny
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import flags
from rich.console import Console

from selfreg.cli.calibrate.check import false_alarms, lead_times, predictor_base
from selfreg.cli.calibrate.pool import read_pool
from selfreg.control import calibrate
from selfreg.control.find import find_calibration
from selfreg.control.within import predictor
from selfreg.run.command import Command
from selfreg.run.command import run as run_command

_RUNS = flags.DEFINE_string("runs", None, "A folder of stationary runs; all below it are used.")
_OUT = flags.DEFINE_string("out", None, "The calibration file to write.")
_PANEL_EVERY = flags.DEFINE_integer(
    "panel_every", None, "evaluation.every_steps of the runs to come; by default as in --runs."
)
_BUDGETS = flags.DEFINE_list(
    "budgets", ["20", "40", "80", "200"], "Lengths of campaigns, in steps."
)
_TRACES = flags.DEFINE_integer("traces", 499, "Campaigns to draw a budget.", lower_bound=199)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of these draws.", lower_bound=0)
_INDICATORS = flags.DEFINE_list(
    "indicators", [], "Indicators for the predictor to read; by default all that the runs have."
)
_CHECK = flags.DEFINE_string("check", None, "A calibration to check: tiny, or a file.")
_RATE = flags.DEFINE_float("rate", 0.05, "The false-alarm rate to check.", 0, 1)
_LEARNING = flags.DEFINE_string("learning", None, "A folder of runs that learn.")


def make(runs: Path, out: Path, budgets: list[int]) -> str:
    """Write a calibration file, and return a summary of it.

    Raises:
      ValueError: The runs cannot be used.
    """
    pool, model = read_pool(runs, _PANEL_EVERY.value)
    known = (*predictor.INDICATORS, calibrate.PANEL)
    for name in _INDICATORS.value:
        if name not in known:
            raise ValueError(f"--indicators={name}: must be among {', '.join(known)}")
    made = calibrate.calibrate(
        pool, predictor.judge, budgets, _TRACES.value, _SEED.value, _INDICATORS.value
    )
    facts = {
        "model": model,
        "drawn_from": f"{len(pool.steps)} steps of stationary runs",
        "panel": f"{len(pool.drawn)} problems x {pool.panel_samples} every {pool.panel_every}",
    }
    heads = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in facts.items()]
    rows = [f"{json.dumps(budget)}: {json.dumps(fit)}" for budget, fit in made.items()]
    budgets_json = '"budgets": {\n' + ",\n".join(rows) + "\n}"
    out.write_text("{\n" + ",\n".join([*heads, budgets_json]) + "\n}\n")
    panels = ", ".join(f"{b}: {_panel_drop(fit):.2f}" for b, fit in made.items())
    return (
        f"{out}: {facts['drawn_from']}; at a false-alarm rate of 0.05 a panel alarms that is more "
        f"than so many standard errors below its peak, by budget {panels}"
    )


def _panel_drop(fit: Mapping[str, Any]) -> float:
    return fit["units"].get(calibrate.PANEL, math.nan) * calibrate.order_statistic(
        fit["maxima"], 0.05
    )


def main(_: list[str]) -> None:
    """Make a calibration, or check one."""
    console = Console()
    if bool(_OUT.value) == bool(_CHECK.value):
        raise ValueError("name either --out=FILE.json to calibrate, or --check=tiny or a file")
    budgets = sorted(int(budget) for budget in _BUDGETS.value)
    if _OUT.value:
        if not _RUNS.value:
            raise ValueError("--runs is missing: name a folder of stationary runs")
        console.print(make(Path(_RUNS.value), Path(_OUT.value), budgets), soft_wrap=True)
    if _CHECK.value:
        if not (_RUNS.value or _LEARNING.value):
            raise ValueError("--check needs --runs of stationary runs, --learning, or both")
        base = predictor_base(find_calibration(_CHECK.value), _RATE.value)
        if _RUNS.value:
            pool = read_pool(Path(_RUNS.value), _PANEL_EVERY.value)[0]
            console.print(false_alarms(base, pool, budgets, _SEED.value))
        if _LEARNING.value:
            table, tallies = lead_times(base, Path(_LEARNING.value))
            console.print(table)
            console.print(*tallies, sep="\n", soft_wrap=True)


def run() -> None:
    """Run the command."""
    run_command(main, Command("calibrate", "selfreg.calibrate", "--runs=FOLDER --out=FILE.json"))


if __name__ == "__main__":
    run()
