"""Charts of the grading outcomes, of the variety of completions, and of capabilities."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby, product
from typing import NamedTuple

import matplotlib
import numpy as np
import pyarrow.parquet as pq
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter

from selfreg.analysis.capabilities import Measured
from selfreg.analysis.load import Run
from selfreg.analysis.plot import MANY, bounded_error, campaign_starts
from selfreg.analysis.theme import DPI, LIGHT, WIDTH_IN, Theme, style
from selfreg.analysis.trajectory import rolling_mean
from selfreg.run.records import Outcome
from selfreg.run.rundir import completions_file

BARS = 60


class OutcomeBar(NamedTuple):
    """Mean share of each outcome over a few steps; `update` counts the updates made before."""

    update: int
    steps: int
    shares: Mapping[Outcome, float]


OUTCOME_COLOURS = {
    Outcome.PASSED: "#009e73",
    Outcome.FAILED: "#0072b2",
    Outcome.WRONG_OUTPUT: "#56b4e9",
    Outcome.EXCEPTION: "#e69f00",
    Outcome.TIMEOUT: "#cc79a7",
    Outcome.MEMORY: "#7b5aa6",
    Outcome.COMPILE_ERROR: "#d55e00",
    Outcome.NO_CODE: "#8c9196",
    Outcome.TEST_ERROR: "#f0e442",
    Outcome.INFRA_ERROR: "#7a4a21",
}


def outcome_bars(run: Run) -> list[OutcomeBar]:
    """Average the outcomes of the training completions into about 60 bars of a few steps each.

    A bar never spans two campaigns. The list is empty if no step recorded outcomes.
    """
    per_bar = max(1, math.ceil(len(run.records) / BARS))
    bars = []
    for start, trace in zip(campaign_starts(run), run.traces, strict=True):
        records = [r for r in trace.records if any(k.startswith("grader/") for k in r.metrics)]
        for first in range(0, len(records), per_bar):
            chunk = records[first : first + per_bar]
            sums = {o: sum(r.metrics.get(f"grader/{o}", 0.0) for r in chunk) for o in Outcome}
            shares = {o: total / len(chunk) for o, total in sums.items() if total}
            bars.append(OutcomeBar(start + chunk[0].step, len(chunk), shares))
    return bars


class Variety(NamedTuple):
    """Variety among the samples of each of the n steps of a campaign.

    Attributes:
      updates: float64 [n], updates made before each step.
      distinct: float64 [n], distinct_completions; NaN where it was not measured.
      solutions: float64 [n], distinct programs that passed / group size, averaged over groups; NaN
        where the completions were not kept.
    """

    updates: np.ndarray
    distinct: np.ndarray
    solutions: np.ndarray


def variety(run: Run) -> list[Variety]:
    """Return the variety of the training completions of each campaign, for steps with samples."""
    found = []
    for start, trace in zip(campaign_starts(run), run.traces, strict=True):
        rows = [
            (
                start + record.step,
                record.metrics.get("distinct_completions", np.nan),
                _solutions(run, trace.campaign, record.step),
            )
            for record in trace.records
        ]
        values = np.array(rows, np.float64).reshape(-1, 3)
        found.append(Variety(*values[~np.isnan(values[:, 1:]).all(axis=1)].T))
    return found


def outcome_figure(
    bars: Sequence[OutcomeBar], varieties: Sequence[Variety] = (), theme: Theme = LIGHT
) -> Figure:
    """Draw the outcomes as stacked shares over updates, and below them the variety of answers.

    Args:
      bars: At least one bar.
      varieties: One per campaign. Without any value, the lower chart is left out.
      theme: Colours.
    """
    varied = any(len(one.updates) for one in varieties)
    with matplotlib.rc_context(style(theme)):
        figure = Figure((WIDTH_IN, 4.2 if varied else 3.0), dpi=DPI, layout="constrained")
        axes = np.atleast_1d(
            figure.subplots(1 + varied, sharex=True, height_ratios=[2.2, 1][: 1 + varied])
        )
        handles = _stack(axes[0], bars, theme)
        if varied:
            handles += _draw_variety(axes[1], varieties, theme)
        axes[-1].set_xlabel("updates made")
        axes[-1].xaxis.set_major_locator(MaxNLocator(6, integer=True))
        figure.legend(handles=handles, loc="outside lower left", ncols=3, frameon=False)
    return figure


def capability_figure(policies: Sequence[Measured], theme: Theme = LIGHT) -> Figure:
    """Draw pass@1 on every panel at each campaign's start, peak and end, ± 1.96 standard errors.

    Args:
      policies: At least one policy, ordered by campaign.
      theme: Colours.
    """
    names = list(policies[0].scores)
    campaigns = [list(own) for _, own in groupby(policies, lambda policy: policy.campaign)]
    with matplotlib.rc_context(style(theme)):
        figure = Figure((WIDTH_IN, 2.9), dpi=DPI, layout="constrained")
        ax = figure.subplots()
        last = max(policy.update for policy in policies)
        for (i, name), own in product(enumerate(names), campaigns):
            # Shifted sideways, because the error bars of one policy would hide each other.
            x = np.array([p.update for p in own]) + 0.012 * last * (i - (len(names) - 1) / 2)
            scores = [p.scores[name] for p in own]
            ax.errorbar(
                x, [score.pass_at_1 for score in scores], bounded_error(scores),
                color=theme.lines[i % 6], marker="osD^vP"[i % 6], markersize=4.5,
                label=name if own is campaigns[0] else None,
                linewidth=1.8 if i == 0 else 1.1, elinewidth=0.9, clip_on=False,
            )  # fmt: skip
        for own in campaigns[1:]:
            edge = own[0].update
            ax.axvline(edge, color=theme.faint, linewidth=0.8, linestyle=(0, (2, 2)), zorder=0)
        ax.set_ylim(0, 1)
        ax.set_title("pass@1 by panel")
        ax.set_xlabel("updates made")
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        figure.legend(loc="outside lower left", ncols=4, frameon=False)
    return figure


def _stack(ax: Axes, bars: Sequence[OutcomeBar], theme: Theme) -> list[Artist]:
    seen = [o for o in Outcome if any(o in bar.shares for bar in bars)]
    left, width = [bar.update for bar in bars], [bar.steps for bar in bars]
    bottom = np.zeros(len(bars))
    for outcome in seen:
        heights = np.array([bar.shares.get(outcome, 0.0) for bar in bars])
        ax.bar(
            left, heights, width, bottom, align="edge", color=OUTCOME_COLOURS[outcome],
            edgecolor=theme.paper, linewidth=0.3,
        )  # fmt: skip
        bottom += heights
    ax.set(xlim=(0, left[-1] + width[-1]), ylim=(0, 1))
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.set_title("training completions by outcome")
    ax.grid(visible=False)
    return [Patch(color=OUTCOME_COLOURS[o], label=o.value.replace("_", " ")) for o in seen]


def _draw_variety(ax: Axes, varieties: Sequence[Variety], theme: Theme) -> list[Artist]:
    handles: list[Artist] = []
    for name, title, colour in (
        ("distinct", "distinct completions", theme.lines[0]),
        ("solutions", "distinct solutions", theme.lines[2]),
    ):
        for one in varieties:
            values = getattr(one, name)
            known = ~np.isnan(values)
            x, y = one.updates[known], values[known]
            ax.plot(
                x, y, ".", color=colour, alpha=0.4, markersize=4, markeredgewidth=0,
                rasterized=sum(len(other.updates) for other in varieties) > MANY,
            )  # fmt: skip
            ax.plot(x, rolling_mean(y), color=colour, linewidth=1.2)
        if any((~np.isnan(getattr(one, name))).any() for one in varieties):
            handles.append(Line2D([], [], color=colour, marker=".", label=title))
    ax.set_ylim(-0.03, 1.03)
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.set_title("share of a group's completions, mean of 5 steps", fontsize=9, pad=3)
    return handles


def _solutions(run: Run, campaign: int, step: int) -> float:
    """Average distinct passed programs / completions over a step's groups; NaN if not kept."""
    file = completions_file(run.folder, campaign, step, "train")
    if not file.exists():
        return np.nan
    rows = pq.read_table(file, columns=["problem_id", "program", "reward"]).to_pylist()
    sizes = Counter(row["problem_id"] for row in rows)
    solved = Counter(problem for problem, _ in {
        (row["problem_id"], row["program"]) for row in rows if row["reward"]
    })  # fmt: skip
    return float(np.mean([solved[problem] / size for problem, size in sizes.items()]))
