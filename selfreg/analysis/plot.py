"""Draw runs from their records, as Matplotlib figures, without pyplot and without files."""

import io
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from textwrap import wrap
from typing import Any, Literal, NamedTuple

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from selfreg.analysis.decisions import Decided
from selfreg.analysis.load import Run, label_runs
from selfreg.analysis.nullmodel import NullComparison, readings
from selfreg.analysis.theme import DPI, LIGHT, WIDTH_IN, Theme, style
from selfreg.analysis.trajectory import rolling_mean
from selfreg.run.records import PanelScore, Trace
from selfreg.run.rundir import CampaignSummary, place_of

PANEL = "panel_pass_at_1"
CONFIDENCE = 1.96
# With more dots than this they are rasterized: as vectors they would take megabytes.
MANY = 500


class Band(NamedTuple):
    """The central 95% of a stationary policy's smoothed pass_rate at each step of a campaign.

    Attributes:
      updates: float64 [n], updates made before each step that drew samples.
      low: float64 [n], the 2.5% quantile.
      high: float64 [n], the 97.5% quantile.
    """

    updates: np.ndarray
    low: np.ndarray
    high: np.ndarray


_BACK: dict[str, Any] = {"marker": "^", "markersize": 5, "linestyle": "none"}
_STOPPED: dict[str, Any] = {"marker": "X", "markersize": 7, "linestyle": "none"}


def null_bands(run: Run, nulls: Sequence[NullComparison | None]) -> list[Band]:
    """Return the band of the stationary null for each campaign's smoothed pass_rate.

    Args:
      run: The run.
      nulls: The stationary comparison of each campaign, from the first; None gives no band.
    """
    bands = []
    for start, trace, null in zip(campaign_starts(run), run.traces, nulls, strict=False):
        if null is not None and null.beta is not None:
            smoothed = rolling_mean(readings(null.beta, null.reading), null.reading.window)
            low, high = np.quantile(smoothed, (0.025, 0.975), axis=0)
            bands.append(Band(_series(trace, "pass_rate", start)[0], low, high))
    return bands


def trajectory_figure(
    runs: Sequence[Run],
    theme: Theme = LIGHT,
    bands: Sequence[Band] = (),
    decided: Sequence[Decided] = (),
) -> Figure:
    """Draw the trajectory of one or more runs: pass@1, and below it entropy and truncation.

    A single run shows: the panel's pass@1 with a band of ± 1.96 standard errors; the report panel's
    scores at each campaign's peak and end, with error bars of the same width, filled if that policy
    rolled forward; and in the background the per-step pass_rate with its rolling mean. Several runs
    show their panels, with one colour per condition and one line per run. A condition with a single
    run keeps its band. If there are more conditions than colours, each condition has its own axes
    and shows only its panel. Runs without a panel show the rolling mean of pass_rate instead.

    Args:
      runs: At least one run.
      theme: Colours.
      bands: For a single run: the range that noise alone explains, see `null_bands`.
      decided: For a single run: its control's decisions, drawn in a strip of their own.
    """
    labels = label_runs(runs)
    if len(set(labels)) > len(theme.lines):
        return _grid_figure(runs, labels, theme)
    colours = dict(zip(sorted(set(labels)), theme.lines, strict=False))
    strips = _strips(runs, decided)
    plans = 1 if decided else 0
    with matplotlib.rc_context(style(theme)):
        height = 3.4 + 0.95 * len(strips) + 0.65 * plans
        figure = Figure((WIDTH_IN, height), dpi=DPI, layout="constrained")
        ratios = [3.4] + [0.35] * plans + [0.8] * len(strips)
        axes = np.atleast_1d(figure.subplots(len(ratios), sharex=True, height_ratios=ratios))
        if len(runs) == 1:
            _draw_pass_rate(axes[0], runs[0], theme)
            for band in bands:
                axes[0].fill_between(
                    band.updates, band.low, band.high, color=theme.faint, alpha=0.2, linewidth=0,
                    zorder=0,
                )  # fmt: skip
        for run, label in zip(runs, labels, strict=True):
            alone = labels.count(label) == 1
            _draw_panel(axes[0], run, colours[label], theme, alone)
            for ax, (metric, _) in zip(axes[1 + plans :], strips, strict=True):
                _draw_strip(ax, run, metric, colours[label], thin=not alone)
        _finish_top(axes[0], runs)
        for ax, (metric, title) in zip(axes[1 + plans :], strips, strict=True):
            _finish_strip(ax, metric, title)
        handles: list[Artist] = list(_legend(runs, labels, colours, theme))
        if bands:
            handles.append(Patch(color=theme.faint, alpha=0.35, label="noise alone, 95%"))
        if decided:
            handles += _draw_decisions(axes[1], runs[0], decided, theme)
        axes[-1].set_xlabel("updates made")
        axes[-1].xaxis.set_major_locator(MaxNLocator(6, integer=True))
        figure.legend(handles=handles, loc="outside upper left", ncols=2, frameon=False)
    return figure


def image(figure: Figure, form: Literal["png", "svg"]) -> bytes:
    """Encode a figure as an image file; equal figures give equal bytes."""
    buffer = io.BytesIO()
    metadata = {"Date": None} if form == "svg" else {"Software": None}
    with matplotlib.rc_context({"svg.hashsalt": "selfreg"}):
        figure.savefig(buffer, format=form, metadata=metadata)
    return buffer.getvalue()


def campaign_starts(run: Run) -> list[int]:
    """Return the updates made before each campaign that has begun."""
    return [0, *np.cumsum([s.end_step for s in run.summaries]).tolist()][: len(run.traces)]


def bounded_error(scores: Sequence[PanelScore]) -> np.ndarray:
    """Return error bars of 1.96 standard errors below and above n scores, clipped to [0, 1].

    Returns:
      float64 [2, n], as Matplotlib's errorbar takes them.
    """
    error = CONFIDENCE * np.array([score.standard_error for score in scores])
    value = np.clip([score.pass_at_1 for score in scores], 0, 1)
    return np.minimum(error, [value, 1 - value])


def has_panel(run: Run) -> bool:
    """Return whether the panel was measured at any step."""
    return any(PANEL in record.metrics for record in run.records)


def _grid_figure(runs: Sequence[Run], labels: Sequence[str], theme: Theme) -> Figure:
    """Draw each condition in its own axes from 0 to 1, two axes per row."""
    names = sorted(set(labels))
    rows = -(-len(names) // 2)
    with matplotlib.rc_context(style(theme)):
        figure = Figure((WIDTH_IN, 0.4 + 1.05 * rows), dpi=DPI, layout="constrained")
        grid = figure.subplots(rows, 2, sharey=True, squeeze=False).ravel()
        for ax, name in zip(grid, names, strict=False):
            own = [run for run, label in zip(runs, labels, strict=True) if label == name]
            for run in own:
                _draw_panel(ax, run, theme.lines[0], theme, alone=len(own) == 1)
            seeds = f"seed {own[0].seed}" if len(own) == 1 else f"{len(own)} seeds"
            ax.set_title("\n".join(wrap(f"{name}, {seeds}", 29)), fontsize=8, pad=3)
            ax.set_ylim(-0.03, 1.03)
            ax.set_xlim(0, max(1, ax.dataLim.x1))
            ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        for ax in grid[len(names) :]:
            ax.remove()
        panel = any(has_panel(run) for run in runs)
        figure.supylabel(
            "pass@1, held-out problems" if panel else "pass_rate, mean of 5 steps", fontsize=10
        )
        figure.supxlabel("updates made", fontsize=10)
    return figure


def _strips(runs: Sequence[Run], decided: Sequence[Decided]) -> list[tuple[str, str]]:
    """List the metrics that have axes of their own, each with its title."""
    found = [
        ("entropy", "entropy (nats per token)"),
        ("clip_ratio", "completions cut at the length limit"),
    ]
    if len({one.plan.lr for one in decided}) > 1 or any(one.restores for one in decided):
        found.append(("lr", "learning rate"))
    records = [record for run in runs for record in run.records]
    return [strip for strip in found if any(strip[0] in record.metrics for record in records)]


def _draw_decisions(ax: Axes, run: Run, decided: Sequence[Decided], theme: Theme) -> list[Artist]:
    """Draw one bar per campaign, labelled with its budget and coloured by the gate's action.

    Marks show restores and early stops.

    Returns:
      The entries for the legend.
    """
    starts = campaign_starts(run)
    actions = sorted({one.plan.action for one in decided})
    colours = {action: theme.lines[(1 + i) % 6] for i, action in enumerate(actions)} | {
        "": theme.faint
    }
    longest = max(1, starts[-1] + decided[-1].steps)
    for one in decided:
        start = starts[one.campaign]
        ax.barh(
            0, one.steps, left=start, height=1, color=colours[one.plan.action], alpha=0.45,
            edgecolor=theme.paper, linewidth=1.5,
        )  # fmt: skip
        if one.steps >= 0.05 * longest:  # a narrower bar has no room for its number
            ax.text(
                start + one.steps / 2, 0, str(one.plan.budget_steps), fontsize=8, ha="center",
                va="center",
            )  # fmt: skip
        for step in one.restores:
            ax.plot(start + step, -0.62, color=theme.ink, clip_on=False, **_BACK)
        if one.stopped_early:
            ax.plot(start + one.steps, 0, color=theme.lines[1], clip_on=False, **_STOPPED)
    ax.set(ylim=(-0.7, 0.55), yticks=[])
    ax.spines["left"].set_visible(False)
    ax.grid(visible=False)
    ax.set_title("the control's plans: updates allowed", fontsize=9, pad=3)
    handles: list[Artist] = [
        Patch(color=colours[action], alpha=0.45, label=f"plan: {action}")
        for action in actions
        if action
    ]
    if any(one.restores for one in decided):
        handles.append(Line2D([], [], color=theme.ink, label="back to the peak", **_BACK))
    if any(one.stopped_early for one in decided):
        handles.append(Line2D([], [], color=theme.lines[1], label="stopped early", **_STOPPED))
    return handles


def _series(trace: Trace, metric: str, start: int) -> tuple[np.ndarray, np.ndarray]:
    """Return updates and values where a metric was measured; both are empty if it never was."""
    rows = [(start + r.step, r.metrics[metric]) for r in trace.records if metric in r.metrics]
    pairs = np.array(rows, np.float64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def _draw_pass_rate(ax: Axes, run: Run, theme: Theme) -> None:
    for start, trace in zip(campaign_starts(run), run.traces, strict=True):
        x, y = _series(trace, "pass_rate", start)
        ax.plot(
            x, y, ".", color=theme.faint, alpha=0.6, markersize=4, markeredgewidth=0, zorder=1,
            rasterized=len(run.records) > MANY,
        )  # fmt: skip
        ax.plot(x, rolling_mean(y), color=theme.faint, alpha=0.8, linewidth=0.9, zorder=1)
        if start:
            ax.axvline(start, color=theme.faint, linewidth=0.8, linestyle=(0, (2, 2)), zorder=0)


def _draw_panel(ax: Axes, run: Run, colour: str, theme: Theme, alone: bool) -> None:
    for start, trace in zip(campaign_starts(run), run.traces, strict=True):
        x, y = _series(trace, PANEL, start)
        if not has_panel(run):
            x, y = _series(trace, "pass_rate", start)
            y = rolling_mean(y)
        elif alone:
            _, error = _series(trace, "panel_pass_at_1_se", start)
            low, high = np.clip([y - CONFIDENCE * error, y + CONFIDENCE * error], 0, 1)
            ax.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0, zorder=2)
        width, alpha = (2.0, 1.0) if alone else (0.9, 0.7)
        mark = "." if len(x) == 1 else ""  # a line through one point is invisible
        ax.plot(x, y, marker=mark, color=colour, linewidth=width, alpha=alpha, zorder=3)
    if alone:
        _draw_reported(ax, run, colour, theme)


def _draw_reported(ax: Axes, run: Run, colour: str, theme: Theme) -> None:
    """Draw the report panel's scores, and a dotted line from a kept peak to the next campaign."""
    starts = campaign_starts(run)
    for summary, start in zip(run.summaries, starts, strict=False):
        place = _kept_place(summary)
        marks = {"end": (summary.end_step, "s"), "peak": (summary.peak_step, "^")}
        if summary.peak_step == summary.end_step:
            del marks["end"]
        if summary.peak_step == 0 and summary.campaign > 0:
            del marks["peak"]  # an earlier campaign already marks this policy
        for name, (step, marker) in marks.items():
            face = colour if name == place else theme.paper
            _draw_score(ax, start + step, summary.scores[name], marker, colour, face)
        if place == "peak" and summary.campaign + 1 < len(run.traces):
            ends = [start + summary.peak_step, start + summary.end_step]
            height = summary.scores[place].pass_at_1
            ax.plot(ends, [height, height], ":", color=colour, linewidth=1.1, zorder=3)


def _kept_place(summary: CampaignSummary) -> str | None:
    """Return which policy of this campaign rolled forward: "end", "peak", or None."""
    kept = summary.kept
    if kept is None or kept.campaign != summary.campaign:
        return None
    return place_of(summary, kept.step)


def _draw_score(ax: Axes, x: int, score: PanelScore, marker: str, colour: str, face: str) -> None:
    ax.errorbar(
        x, score.pass_at_1, bounded_error([score]), fmt=marker, color=colour,
        markerfacecolor=face, markersize=6.5, markeredgewidth=1.3, elinewidth=1.1, zorder=5,
        clip_on=False,
    )  # fmt: skip


def _draw_strip(ax: Axes, run: Run, metric: str, colour: str, thin: bool) -> None:
    for start, trace in zip(campaign_starts(run), run.traces, strict=True):
        x, y = _series(trace, metric, start)
        ax.plot(x, y, color=colour, linewidth=0.7 if thin else 1.2, alpha=0.6 if thin else 0.9)


def _finish_top(ax: Axes, runs: Sequence[Run]) -> None:
    ax.set_ylim(-0.02, _ceiling(ax))  # keeps a line at 0 visible above the frame
    ax.set_xlim(left=0)
    panel = any(has_panel(run) for run in runs)
    title = "pass@1, held-out problems" if panel else "pass_rate, mean of 5 steps"
    campaigns = len(runs[0].traces)
    if len(runs) == 1 and campaigns > 1:
        _number_campaigns(ax, runs[0])
        ax.set_title(f"{title}, campaigns 1 to {campaigns}", pad=17)
    else:
        ax.set_title(title)


def _number_campaigns(ax: Axes, run: Run) -> None:
    """Write each campaign's number above the frame, centred on the campaign."""
    edges = np.array([*campaign_starts(run), campaign_starts(run)[-1] + run.records[-1].step])
    for number, (start, end) in enumerate(pairwise(edges), 1):
        if end - start >= 0.03 * edges[-1]:  # a narrower campaign has no room for its number
            ax.annotate(
                str(number), ((start + end) / 2, 1), (0, 3), xycoords=("data", "axes fraction"),
                textcoords="offset points", fontsize=9, ha="center", alpha=0.75,
            )  # fmt: skip


def _ceiling(ax: Axes) -> float:
    """Return the next tenth above everything drawn."""
    return min(1.02, math.ceil(10 * ax.dataLim.y1 + 0.2) / 10)


def _finish_strip(ax: Axes, metric: str, title: str) -> None:
    ax.set_title(title, fontsize=9, pad=3)
    if metric == "clip_ratio":
        ax.set_ylim(-0.05, 1.05)
        ax.set_yticks([0, 1], ["0%", "100%"])
        return
    low, high = ax.dataLim.y0, ax.dataLim.y1
    if 0 < 10 * low < high:  # entropy from 0.1 to 6: a linear axis would hide the small values
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(10, (1.0,) if 30 * low < high else (1.0, 3.0)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.tick_params(axis="y", which="minor", length=0)
    else:
        ax.yaxis.set_major_locator(MaxNLocator(3))


def _legend(
    runs: Sequence[Run], labels: Sequence[str], colours: Mapping[str, str], theme: Theme
) -> list[Line2D]:
    handles = []
    for name, colour in colours.items():
        own = [run for run, label in zip(runs, labels, strict=True) if label == name]
        seeds = f"seed {own[0].seed}" if len(own) == 1 else f"{len(own)} seeds"
        handles.append(Line2D([], [], color=colour, linewidth=2, label=f"{name}, {seeds}"))
    if len(colours) == len(runs) and any(run.summaries for run in runs):
        marks = (("^", theme.paper, "peak, report panel"), ("s", theme.paper, "end, report panel"))
        for marker, face, label in (*marks, ("o", theme.ink, "filled: rolls forward")):
            handles.append(
                Line2D(
                    [], [], marker=marker, linestyle="none", color=theme.ink, markersize=6,
                    markerfacecolor=face, label=label,
                )
            )  # fmt: skip
    if len(runs) == 1:
        label = "training, mean of 5 steps"
        handles.append(Line2D([], [], color=theme.faint, marker=".", alpha=0.7, label=label))
    return handles
