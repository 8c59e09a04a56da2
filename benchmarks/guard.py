"""Compare the guard's false alarms and delays with those of common rules and packages.

    python -m benchmarks.guard --out=guard.json            # a tenth of all runs
    python -m benchmarks.guard --out=guard.json --share=1 --tables=nulls,delays
    pip install -e .[guard-peers]                          # for --tables=peers

This runs in one process, writes each cell when it is finished, and resumes where it stopped. It
needs neither a GPU nor JAX. The panel cells apply the guard's own arithmetic to many runs at once.
The log cells and the peers process runs one by one.
"""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags
from scipy.stats import beta as beta_distribution

from benchmarks import guard_rules as rules
from benchmarks import guard_runs as runs_of
from benchmarks.table import Aim, load_average, show, show_aims
from selfreg.run.rundir import write_json

_OUT = flags.DEFINE_string("out", "guard.json", "The file of finished cells, read at the start.")
_SHARE = flags.DEFINE_float("share", 0.1, "The fraction of each cell's runs to make. 1: all.")
_TABLES = flags.DEFINE_list("tables", ["nulls", "delays", "log", "peers"], "The tables to make.")
_SEED = flags.DEFINE_integer("seed", 0, "The random seed.")

MARGIN = 0.02
NULL_RUNS = {20: 10_000, 200: 2_000, 2_000: 500}  # runs by number of looks
SIZES = ((96, 4), (32, 4), (96, 1))  # problems, samples
DROPS = (0.05, 0.1, 0.2, 0.4)
GRADUAL, OVER = 0.4, (5, 12, 25)
DELAY_RUNS, PLANNED, CHANGE = 1_000, 200, 60
LOG_RUNS = {200: 2_000, 2_000: 100}  # runs by number of steps
LOGS = ((16, 1), (64, 8), (512, 64))  # samples, problems
LOG_STEPS, LOG_CHANGE, LOG_DELAY_RUNS = 400, 200, 100
PEER_RUNS = 120
FLOATS = 4_000_000  # limit on the rates in memory at a time
OWN = ("guard 0.05", "guard 0.01")
OTHERS = ("three declines", "EMA - 0.05", "z > 2", "predictor")

# Panel size, drop, and the maximum median number of looks to detect the drop.
WANTED = (
    ("96x4", 0.05, 24),
    ("96x4", 0.1, 2),
    ("96x4", 0.2, 1),
    ("96x4", 0.4, 1),
    ("32x4", 0.1, 10),
)

Cells = dict[str, dict[str, Any]]


def main(_: list[str]) -> None:
    """Make the missing cells, and print all tables."""
    file = Path(_OUT.value)
    cells: Cells = json.loads(file.read_text()) if file.is_file() else {}
    makers = {"nulls": _nulls, "delays": _delays, "log": _log, "peers": _peers}
    for table in _TABLES.value:
        for name, make in makers[table]():
            key = f"{name} x{_SHARE.value:g}"
            if key not in cells:
                cells[key] = make(np.random.default_rng([_SEED.value, *key.encode()]))
                write_json(file, cells)
    own = {k.removesuffix(f" x{_SHARE.value:g}"): v for k, v in cells.items()
           if k.endswith(f" x{_SHARE.value:g}")}  # fmt: skip
    _show_nulls(own)
    _show_delays(own)
    _show_rest(own)
    _show_aims(own)


Make = Callable[[np.random.Generator], dict[str, Any]]


def _count(runs: int) -> int:
    return max(1, round(runs * _SHARE.value))


def _nulls() -> Iterator[tuple[str, Make]]:
    for looks, runs in NULL_RUNS.items():
        for problems, samples in SIZES:
            for kind, maker in runs_of.nulls(MARGIN).items():
                name = f"null|{looks}|{problems}x{samples}|{kind}"
                yield name, partial(_null, maker, _count(runs), looks, problems, samples)


def _null(
    kind: runs_of.Kind, runs: int, looks: int, problems: int, samples: int,
    rng: np.random.Generator,
) -> dict[str, Any]:  # fmt: skip
    """Count each rule's false alarms in simulated runs."""
    false = dict.fromkeys((*OWN, *OTHERS), 0)
    for rates in _chunks(rng, kind, runs, looks, problems, samples):
        for rule, first in _firsts(rates, looks).items():
            false[rule] += int((first != rules.NEVER).sum())
    return {"runs": runs, "false": false}


def _chunks(
    rng: np.random.Generator, kind: runs_of.Kind, runs: int, looks: int, problems: int, samples: int
) -> Iterator[np.ndarray]:
    most = max(1, FLOATS // (looks * problems))
    for first in range(0, runs, most):
        count = min(most, runs - first)
        yield runs_of.panels(rng, kind, count, looks, problems, samples)


def _firsts(rates: np.ndarray, planned: int) -> dict[str, np.ndarray]:
    """Return the look of each run's first alarm, for every rule."""
    means, z = rates.mean(axis=-1), rules.z_scores(rates)
    own = rules.guard(rates, planned, MARGIN)
    return {
        **{f"guard {alpha:g}": first for alpha, first in own.items()},
        "three declines": rules.three_declines(means),
        "EMA - 0.05": rules.moving_average(means),
        "z > 2": rules.above(z, 2.0),
        "predictor": rules.above(z, _threshold(planned), 8),
    }


_thresholds: dict[int, float] = {}


def _threshold(looks: int) -> float:
    """Return the predictor's threshold: 5% of stationary runs of this length exceed it (96 x 4)."""
    if looks not in _thresholds:
        rng = np.random.default_rng(1)
        kind = partial(runs_of.stationary, mean=0.6)
        largest = [
            rules.z_scores(rates)[:, 8:].max(axis=1)
            for rates in _chunks(rng, kind, 200_000 // looks + 200, looks, 96, 4)
        ]
        _thresholds[looks] = float(np.quantile(np.concatenate(largest), 0.95))
    return _thresholds[looks]


def _delays() -> Iterator[tuple[str, Make]]:
    for problems, samples in SIZES:
        falls = [(drop, 1) for drop in DROPS] + [(GRADUAL, over) for over in OVER]
        for drop, over in falls:
            name = f"delay|{problems}x{samples}|{drop:g} over {over}"
            yield name, partial(_delay, drop, over, problems, samples)


def _delay(
    drop: float, over: int, problems: int, samples: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Return the looks from the change to the alarm, in runs without an earlier alarm.

    -1 means that no alarm came.
    """
    kind = partial(runs_of.fall, drop=drop, change=CHANGE, over=over)
    delays: dict[str, list[int]] = {}
    for rates in _chunks(rng, kind, _count(DELAY_RUNS), PLANNED, problems, samples):
        for rule, first in _firsts(rates, PLANNED).items():
            kept = first[(first == rules.NEVER) | (first > CHANGE)]
            late = np.where(kept == rules.NEVER, -1, kept - CHANGE)
            delays.setdefault(rule, []).extend(late.tolist())
    return {"runs": _count(DELAY_RUNS), "delays": delays}


def _log() -> Iterator[tuple[str, Make]]:
    for steps, runs in LOG_RUNS.items():
        for alike in (0.0, 0.5, 0.8, 0.95):
            name = f"log|{steps}|alike {alike:g}"
            yield name, partial(_log_null, steps, _count(runs), alike, 0.0)
        yield f"log|{steps}|rising", partial(_log_null, steps, _count(runs), 0.0, 0.3)
    for samples, problems in LOGS:
        for drop in DROPS:
            yield (
                f"log delay|{samples}/{problems}|{drop:g}",
                partial(_log_delay, samples, problems, drop),
            )


def _log_null(
    steps: int, runs: int, alike: float, rise: float, rng: np.random.Generator
) -> dict[str, Any]:
    """Count false alarms in logs whose mean stays constant, or rises by `rise`."""
    false = 0
    for _ in range(runs):
        mean = 0.5 + rise * np.minimum(1, np.linspace(0, 2, steps))
        rewards = runs_of.log_rewards(rng, steps, 64, 8, mean, alike)
        false += rules.guard_log(rewards, steps, 0.05, MARGIN) != rules.NEVER
    return {"runs": runs, "false": {"guard 0.05": false}}


def _log_delay(
    samples: int, problems: int, drop: float, rng: np.random.Generator
) -> dict[str, Any]:
    late = []
    for _ in range(_count(LOG_DELAY_RUNS)):
        mean = np.where(np.arange(LOG_STEPS) < LOG_CHANGE, 0.6, 0.6 - drop)
        rewards = runs_of.log_rewards(rng, LOG_STEPS, samples, problems, mean)
        first = rules.guard_log(rewards, LOG_STEPS, 0.05, MARGIN)
        if first == rules.NEVER or first > LOG_CHANGE:
            late.append(-1 if first == rules.NEVER else first - LOG_CHANGE)
    return {"runs": _count(LOG_DELAY_RUNS), "delays": {"guard 0.05": late}}


def _peers() -> Iterator[tuple[str, Make]]:
    for rise in (0.0, 0.3):
        yield f"peer null|{rise:g}", partial(_peer, 0.0, rise)
    for drop in DROPS:
        yield f"peer delay|{drop:g}", partial(_peer, drop, 0.0)


def _peer(drop: float, rise: float, rng: np.random.Generator) -> dict[str, Any]:
    """Return the step of each public package's first alarm, on logs of 400 steps of 64 samples."""
    steps = np.arange(LOG_STEPS)
    mean = 0.6 + rise * np.minimum(1, steps / LOG_CHANGE) - drop * (steps >= LOG_CHANGE)
    logs = [runs_of.log_rewards(rng, LOG_STEPS, 64, 8, mean) for _ in range(_count(PEER_RUNS * 10))]
    found = {name: [rule(log) for log in logs] for name, rule in rules.PEERS.items()}
    found["guard 0.05"] = [rules.guard_log(log, LOG_STEPS, 0.05, MARGIN) for log in logs]
    return {"runs": len(logs), "first": found}


def _interval(count: int, runs: int) -> str:
    """Format a proportion with its 95% interval (Clopper and Pearson 1934)."""
    low = beta_distribution.ppf(0.025, count, runs - count + 1) if count else 0.0
    high = beta_distribution.ppf(0.975, count + 1, runs - count) if count < runs else 1.0
    return f"{count / runs:.2%} [{low:.2%}, {high:.2%}]"


def _show_nulls(cells: Cells) -> None:
    looks = sorted({int(k.split("|")[1]) for k in cells if k.startswith("null|")})
    for many in looks:
        own = {k: v for k, v in cells.items() if k.startswith(f"null|{many}|")}
        rows = []
        for rule in (*OWN, *OTHERS):
            counts = {k: v["false"][rule] for k, v in own.items()}
            worst = max(counts, key=lambda k: counts[k] / own[k]["runs"])
            total = _interval(sum(counts.values()), sum(v["runs"] for v in own.values()))
            where = " ".join(worst.split("|")[2:])
            rows.append([rule, total, _interval(counts[worst], own[worst]["runs"]), where])
        show(
            f"False alarms in runs of {many} looks that never fall by more than {MARGIN}",
            ["rule", "all cells", "worst cell", "which"],
            rows,
            f"{len(own)} cells of {next(iter(own.values()))['runs']:,} runs.",
        )


def _show_delays(cells: Cells) -> None:
    for problems, samples in SIZES:
        own = {k: v for k, v in cells.items() if k.startswith(f"delay|{problems}x{samples}|")}
        if own:
            rows = [
                [rule, *(_late(v["delays"][rule]) for v in own.values())]
                for rule in (*OWN, *OTHERS)
            ]
            show(
                f"Looks from a fall to the alarm, {problems} problems x {samples} samples",
                ["rule", *(k.split("|")[2] for k in own)],
                rows,
                f"Median (90th percentile, and the fraction detected if below 95%). Runs that "
                f"alarm before the fall are left out. {PLANNED} looks, with the fall after "
                f"{CHANGE}, and {next(iter(own.values()))['runs']:,} runs per cell.",
            )


def _late(delays: list[int]) -> str:
    if not delays:
        return "all alarmed before"
    values = np.array([d if d > 0 else 10**6 for d in delays])
    found = float(np.mean(values < 10**6))
    middle, most = np.quantile(values, [0.5, 0.9], method="higher")
    words = [f"{v}" if v < 10**6 else "-" for v in (middle, most)]
    share = f", {found:.0%}" if found < 0.95 else ""
    return f"{words[0]} ({words[1]}{share})"


def _show_rest(cells: Cells) -> None:
    rows = [
        [*k.split("|")[1:], _interval(v["false"]["guard 0.05"], v["runs"])]
        for k, v in cells.items()
        if k.startswith("log|")
    ]
    if rows:
        show("False alarms from a log only, alpha 0.05", ["steps", "kind", "alarms"], rows, "")
    rows = [
        [*k.split("|")[1:], _late(v["delays"]["guard 0.05"])]
        for k, v in cells.items()
        if k.startswith("log delay|")
    ]
    if rows:
        show("Steps to the alarm from a log only", ["samples/problems", "fall", "steps"], rows, "")
    rows = []
    for key, cell in cells.items():
        if key.startswith("peer"):
            for rule, first in cell["first"].items():
                alarms = [f for f in first if f != rules.NEVER]
                after = [f - LOG_CHANGE if f > LOG_CHANGE else -1 for f in first]
                early = sum(0 < f <= LOG_CHANGE for f in first)
                late = _late(after) if "delay" in key else ""
                rows.append([key, rule, _interval(len(alarms), len(first)), str(early), late])
    if rows:
        show(
            "Public packages on logs of 400 steps of 64 samples; a fall comes after 200",
            ["logs", "rule", "alarm", "in the first 200 steps", "steps after the fall"],
            rows,
            load_average(),
        )


def _show_aims(cells: Cells) -> None:
    aims = []
    for alpha in rules.ALPHAS:
        worst = [
            (v["false"][f"guard {alpha:g}"] / v["runs"], k)
            for k, v in cells.items()
            if k.startswith("null|")
        ]
        if worst:
            share, name = max(worst)
            aims.append(Aim(f"false alarms of {alpha:g} at most", f"{share:.2%} in {name}",
                            share <= alpha))  # fmt: skip
    for size, drop, most in WANTED:
        cell = cells.get(f"delay|{size}|{drop:g} over 1")
        if cell:
            delays = [d if d > 0 else 10**6 for d in cell["delays"]["guard 0.05"]]
            middle = int(np.quantile(delays, 0.5, method="higher"))
            aims.append(Aim(f"{size}: {drop:g} within {most}", f"{middle} looks", middle <= most))
    show_aims(aims)


if __name__ == "__main__":
    app.run(main)
