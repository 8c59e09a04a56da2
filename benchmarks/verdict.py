"""Measure the verdict's false alarms, power and panel sizes, and the time for 10,000 chains.

    python -m benchmarks.verdict

Simulated panels have the form of a run's: --readings panels of 96 problems x 4 samples select the
peak, and a report panel of 96 x 8 measures peak and end. This needs neither a GPU nor JAX.
"""

import resource
import time

import numpy as np
from absl import app, flags
from scipy.stats import t as student

from benchmarks.table import Aim, load_average, show, show_aims
from selfreg.analysis.chains import chains
from selfreg.analysis.nullmodel import Beta
from selfreg.analysis.power import panel_size, power_of_panel
from selfreg.analysis.selected import selected_drop
from selfreg.analysis.verdict import LEVEL, MARGIN

_CAMPAIGNS = flags.DEFINE_integer("campaigns", 10_000, "Simulated campaigns for each line.")
_READINGS = flags.DEFINE_integer("readings", 5, "Panels per campaign.")
_SEED = flags.DEFINE_integer("seed", 0, "The random seed.")
PROBLEMS, PANEL_SAMPLES, REPORT_SAMPLES = 96, 4, 8
POLICIES = (Beta(0.1, 2.0), Beta(0.3, 2.0), Beta(0.5, 2.0))
DROPS = (0.0, 0.02, 0.05, 0.10, 0.15, 0.20)
LEAST = (0.02, 0.03, 0.05, 0.10, 0.20)


def main(_: list[str]) -> None:
    """Measure and print."""
    rng = np.random.default_rng(_SEED.value)
    chain_aims = _time_chains(rng)
    false_rows, aims = [], []
    for policy in POLICIES:
        called, of, selected, biased = _called(rng, policy, 0.0)
        false_rows.append([f"{policy.mean}", _of(called, of), f"{selected:.2%}", f"{biased:.2%}"])
        for name, share in (("report panel", called / of), ("own panel", selected)):
            wanted = f"5% ± 0.5 false, {name}, pass@1 {policy.mean}"
            aims.append(Aim(wanted, f"{share:.2%}", abs(share - LEVEL) <= 0.005))
    show(
        f"Verdicts collapsed or declined, in {_CAMPAIGNS.value:,} campaigns that do not change",
        ["pass@1", "report panel", "own panel, selection accounted for", "own panel, not"],
        false_rows,
        f"Problems' rates are Beta with concentration 2. {_READINGS.value} panels of {PROBLEMS} x "
        f"{PANEL_SAMPLES} select the peak. The report panel is {PROBLEMS} x {REPORT_SAMPLES}, for "
        "campaigns whose end is not the peak.",
    )
    policy = POLICIES[-1]
    rows: list[list[str]] = []
    for drop in DROPS:
        called, of, selected = _called(rng, policy, drop)[:3]
        expected = power_of_panel(drop, PROBLEMS, REPORT_SAMPLES, policy)
        rows.append([f"{drop:.2f}", f"{called / of:.1%}", f"{expected:.1%}", f"{selected:.1%}"])
    show(
        f"Power: probability of detecting a true drop from {policy.mean}",
        ["drop", "report panel", "by power_of_panel", "own panel"],
        rows,
        "The policy loses the same fraction on every problem between the last two readings. The "
        f"verdict is collapsed if the measured drop is {MARGIN:g} or more.",
    )
    show(
        "Problems that a report panel needs for a power of 80%",
        ["drop", *(f"{p.mean}, {n} samples" for p in POLICIES[1:] for n in (4, 8, 16))],
        [
            [f"{drop:.2f}"]
            + [f"{panel_size(drop, n, p):,}" for p in POLICIES[1:] for n in (4, 8, 16)]
            for drop in LEAST
        ],
        load_average(),
    )
    show_aims([*aims, *chain_aims])


def _called(rng: np.random.Generator, policy: Beta, drop: float) -> tuple[int, int, float, float]:
    """Simulate campaigns whose policy changes only by a drop before the last reading.

    Returns:
      called: Campaigns with a peak before the end and a significant drop on the report panel.
      of: Campaigns with a peak before the end.
      seen: The fraction of campaigns with a significant drop on the selecting panels, if the test
        accounts for the selection.
      biased: The same fraction, if it does not.
    """
    count, readings = _CAMPAIGNS.value, _READINGS.value
    share = np.ones((readings, 1))
    share[-1] = 1 - drop / policy.mean
    rates = _rates(rng, policy, count)[:, None]
    panels = rng.binomial(PANEL_SAMPLES, rates * share) / PANEL_SAMPLES
    has_peak = panels.mean(axis=2).argmax(axis=1) < readings - 1
    own = selected_drop(panels)
    others = _rates(rng, policy, count)
    peak, end = (rng.binomial(REPORT_SAMPLES, others * s) for s in (1.0, share[-1]))
    differences = (peak - end) / REPORT_SAMPLES
    error = differences.std(axis=1, ddof=1) / np.sqrt(PROBLEMS)
    p = student.sf(differences.mean(axis=1) / error, PROBLEMS - 1)
    called = int((p[has_peak] <= LEVEL).sum())
    seen, biased = (float(np.mean(p <= LEVEL)) for p in (own.p, own.biased_p))
    return called, int(has_peak.sum()), seen, biased


def _rates(rng: np.random.Generator, policy: Beta, count: int) -> np.ndarray:
    a, b = policy.mean * policy.concentration, (1 - policy.mean) * policy.concentration
    return rng.beta(a, b, (count, PROBLEMS))


def _of(called: int, of: int) -> str:
    return f"{called / of:.2%} of {of:,}"


def _time_chains(rng: np.random.Generator) -> list[Aim]:
    """Measure the seconds and the process's peak memory for 10,000 chains of 10 x 20 steps."""
    values = rng.binomial(16, 0.2, (10_000, 10, 20)) / 16
    began = time.perf_counter()
    found = chains(values, np.full((10_000, 10), 20))
    seconds = time.perf_counter() - began
    gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    assert found.end.shape == (10_000,)
    return [
        Aim("10,000 chains of 10 x 20 steps under 60 s", f"{seconds:.2f} s", seconds < 60),
        Aim("under 4 GiB", f"{gib:.2f} GiB at most", gib < 4),
    ]


if __name__ == "__main__":
    app.run(main)
