"""Draw the paper's Figures 1 and 3 from stored runs, together with the paper's printed numbers.

If the chains of a figure were not run, the figure says so and shows only the paper's numbers.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from selfreg.analysis.load import Run
from selfreg.analysis.paper import published
from selfreg.analysis.paper.tables_cells import NOT_RUN
from selfreg.analysis.paper.tables_runs import (
    PaperRuns,
    mean,
    measured,
    metric_of,
    null_campaign,
    null_chains,
    panel,
    series,
)
from selfreg.analysis.plot import CONFIDENCE, DPI, LIGHT, PANEL, WIDTH_IN, Theme, image, style
from selfreg.analysis.stats import bootstrap_interval
from selfreg.analysis.trajectory import WINDOW, rolling_mean
from selfreg.run.records import Trace

NULL_CAMPAIGNS = 3_000
_QUANTILES = (0.025, 0.975)


def figure_1(runs: PaperRuns, theme: Theme = LIGHT) -> Figure:
    """Draw Figure 1, one long run: pass_rate, its mean of 5 steps, the panel, and the null.

    The band of the stationary null holds 95% of the 5-step means of a policy that never changes and
    has the pass rates of this run's own groups. If several seeds ran, the smallest is shown.
    """
    printed = published.figure(1)
    with matplotlib.rc_context(style(theme)):
        figure = Figure((WIDTH_IN, 3.6), dpi=DPI, layout="constrained")
        ax = figure.subplots()
        handles = _draw_run(ax, runs.of(printed["runs"])[0], theme) if _ran(1, runs) else []
        ax.plot(
            printed["steps"], printed["pass_at_1"], "D", color=theme.ink, markersize=5.5,
            markerfacecolor=theme.paper, zorder=6, clip_on=False,
        )  # fmt: skip
        handles.append(
            Line2D(
                [], [], marker="D", linestyle="none", color=theme.ink, markerfacecolor=theme.paper,
                markersize=5.5, label="the paper's text",
            )
        )  # fmt: skip
        title = "pass@1, tiny variant" if _ran(1, runs) and runs.tiny else "pass@1"
        ax.set(ylim=(-0.02, 1.02), xlabel="updates made", title=title)
        ax.set_xlim(left=0)
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if not _ran(1, runs):
            _say_not_run(ax, theme)
        figure.legend(handles=handles, loc="outside lower left", ncols=2, frameon=False)
    return figure


def figure_3(runs: PaperRuns, theme: Theme = LIGHT) -> Figure:
    """Draw Figure 3, long chains: (a) aligned campaigns, (b) peaks and ends, (c) onsets.

    (a) shows the mean over all campaigns with a 95% bootstrap band over chains, and the campaigns
    of one chain behind it. (b) shows means over chains. The area between peak and end is invisible
    to a gate that reads only ends. (c) shows the steps at which collapses begin, beside those of
    stationary chains of the same lengths.
    """
    printed = published.figure(3)
    own = {
        label: runs.of(source)
        for label, source in zip(printed["labels"], printed["runs"], strict=True)
        if runs.of(source)
    }
    colours = dict(zip(printed["labels"], theme.lines, strict=False))
    with matplotlib.rc_context(style(theme)):
        figure = Figure((WIDTH_IN, 8.2), dpi=DPI, layout="constrained")
        axes = figure.subplots(3, height_ratios=(1, 1, 0.9))
        for label, chains in own.items():
            _draw_aligned(axes[0], chains, colours[label], theme)
            _draw_by_campaign(axes[1], chains, colours[label])
        _draw_onsets(axes[2], own, colours, theme, printed["mean_onset_step"])
        _finish_3(axes, own)
        for ax in axes if not own else ():
            _say_not_run(ax, theme)
        figure.legend(
            handles=_legend_3(own, colours, theme, runs.tiny),
            loc="outside lower left",
            ncols=2,
            frameon=False,
        )
    return figure


FIGURES: Mapping[int, Callable[[PaperRuns], Figure]] = {1: figure_1, 3: figure_3}
_FORMS: tuple[Literal["png", "svg"], ...] = ("png", "svg")


def write_figures(runs: PaperRuns, out: Path) -> str:
    """Write figure_N.png and .svg, and return Markdown that shows them."""
    out.mkdir(parents=True, exist_ok=True)
    parts = []
    for number, draw in FIGURES.items():
        figure, printed = draw(runs), published.figure(number)
        for form in _FORMS:
            (out / f"figure_{number}.{form}").write_bytes(image(figure, form))
        parts += [
            f"## Figure {number}. {printed['title']}",
            f"![Figure {number}](figure_{number}.png)",
            f"The paper: {printed['printed']}.",
        ]
        parts += [] if _ran(number, runs) else [f"Ours: {NOT_RUN}."]
    return "\n\n".join(parts) + "\n"


def _sources(number: int) -> Sequence[str]:
    named = published.figure(number)["runs"]
    return [named] if isinstance(named, str) else named


def _ran(number: int, runs: PaperRuns) -> bool:
    return any(runs.of(source) for source in _sources(number))


def _say_not_run(ax: Axes, theme: Theme) -> None:
    ax.text(0.4, 0.5, NOT_RUN, transform=ax.transAxes, ha="center", va="center", color=theme.faint)


def _draw_run(ax: Axes, run: Run, theme: Theme) -> list[Line2D | Patch]:
    trace = Trace(0, "pass_rate", run.traces[0].records)
    steps, values = trace.series()
    handles: list[Line2D | Patch] = []
    null = null_campaign(run, trace, NULL_CAMPAIGNS)
    if null is not None:
        low, high = np.quantile(null, _QUANTILES, axis=0)
        if len(steps) >= WINDOW:  # all full windows have the same distribution, so pool them
            full = slice(WINDOW - 1, None)
            low[full], high[full] = np.quantile(null[:, full], _QUANTILES)
        ax.fill_between(steps, low, high, color=theme.faint, alpha=0.22, linewidth=0, zorder=0)
        name = "a policy that never changes, 95%"
        handles.append(Patch(color=theme.faint, alpha=0.22, linewidth=0, label=name))
    ax.plot(steps, values, ".", color=theme.faint, alpha=0.7, markersize=4, markeredgewidth=0)
    ax.plot(steps, rolling_mean(values), color=theme.lines[1], linewidth=1.4, zorder=3)
    handles += [
        Line2D([], [], color=theme.faint, marker=".", linestyle="none", label="pass_rate per step"),
        Line2D([], [], color=theme.lines[1], label=f"pass_rate, mean of {WINDOW} steps"),
    ]
    held = [
        (r.step, r.metrics[PANEL], r.metrics[f"{PANEL}_se"])
        for r in trace.records
        if PANEL in r.metrics
    ]
    if held:
        at, level, error = np.array(held).T
        low, high = np.clip([level - CONFIDENCE * error, level + CONFIDENCE * error], 0, 1)
        ax.fill_between(at, low, high, color=theme.lines[0], alpha=0.18, linewidth=0, zorder=2)
        ax.plot(at, level, color=theme.lines[0], marker="o", markersize=3.5, zorder=5)
        name = "held-out panel ± 1.96 SE"
        handles.append(Line2D([], [], color=theme.lines[0], marker="o", markersize=3.5, label=name))
    return handles


def _draw_aligned(ax: Axes, chains: Sequence[Run], colour: str, theme: Theme) -> None:
    values, _ = series(chains)
    for line in values[0]:
        ax.plot(line, color=colour, linewidth=0.6, alpha=0.3, zorder=1)
    by_chain = mean(np.moveaxis(values, 1, 2))  # over the campaigns that reached each step
    steps = np.flatnonzero(~np.isnan(by_chain).all(axis=0))
    centre = mean(by_chain.T)[steps]
    ax.plot(steps, centre, color=colour, linewidth=2.0, zorder=4)
    if len(chains) > 1:
        known = [column[~np.isnan(column)] for column in by_chain.T[steps]]
        low, high = np.array([bootstrap_interval(column) for column in known]).T
        ax.fill_between(steps, low, high, color=colour, alpha=0.18, linewidth=0, zorder=2)


def _draw_by_campaign(ax: Axes, chains: Sequence[Run], colour: str) -> None:
    shape = measured(chains).campaigns
    peak, end = mean(shape.peak.T), mean(shape.end.T)
    numbers = np.arange(1, len(peak) + 1)
    ax.plot(numbers, peak, color=colour, marker="^", markersize=4.5, linewidth=1.6)
    ax.plot(numbers, end, color=colour, marker="s", markersize=4, linewidth=1.6, linestyle="--")
    ax.fill_between(numbers, end, peak, color=colour, alpha=0.08, linewidth=0)
    ax.plot(numbers, panel(chains, "end").mean(axis=0), "-.", color=colour, linewidth=1.2)


def _draw_onsets(
    ax: Axes,
    own: Mapping[str, Sequence[Run]],
    colours: Mapping[str, str],
    theme: Theme,
    printed_mean: float,
) -> None:
    """Draw the share of campaigns with each onset step as bars, and that of the null as a line."""
    width = 0.8 / max(1, len(own))
    for i, (label, chains) in enumerate(own.items()):
        onset = measured(chains).campaigns.onset_step
        steps = np.arange(series(chains)[0].shape[-1])
        share = _shares(onset, steps)
        ax.bar(steps + (i + 0.5) * width - 0.4, share, width, color=colours[label], zorder=3)
        null = null_chains(chains)
        if null is not None:
            expected = _shares(null.campaigns.onset_step, steps)
            ax.step(
                steps, expected, where="mid", color=colours[label], linewidth=1.2, zorder=4,
                linestyle=(0, (1, 1)),
            )  # fmt: skip
    ax.axvline(printed_mean, color=theme.ink, linewidth=1.0, linestyle=(0, (4, 2)))


def _shares(onset: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Return the share of all campaigns whose onset is at each step."""
    return (onset[..., None] == steps).mean(axis=tuple(range(onset.ndim)))


def _finish_3(axes: np.ndarray, own: Mapping[str, Sequence[Run]]) -> None:
    read = next((metric_of(chains) for chains in own.values()), "pass_rate")
    axes[0].set(title=f"(a) mean over campaigns of {read}")
    axes[0].set(xlabel="updates made in the campaign", ylabel="pass@1")
    axes[1].set(title="(b) peak and end by campaign, mean over chains", xlabel="campaign")
    axes[1].set(ylabel="pass@1")
    axes[2].set(title="(c) onset: first below 30% of the peak", ylabel="share of campaigns")
    axes[2].set(xlabel="updates made in the campaign")
    if not own:
        axes[2].set_xlim(0, 20)
    for ax in axes:
        ax.set_ylim(bottom=0)
        ax.xaxis.set_major_locator(MaxNLocator(10, integer=True, steps=[1, 2, 5, 10]))


def _legend_3(
    own: Mapping[str, Sequence[Run]], colours: Mapping[str, str], theme: Theme, tiny: bool
) -> list[Line2D]:
    kind = ", tiny" if tiny else ""
    handles = [
        Line2D([], [], color=colours[label], linewidth=3, label=f"{label}, n={len(chains)}{kind}")
        for label, chains in own.items()
    ]
    ink = theme.ink
    if own:
        handles += [
            Line2D([], [], color=ink, linewidth=0.6, alpha=0.5, label="(a) one chain's campaigns"),
            Line2D([], [], color=ink, marker="^", markersize=4.5, label="(b) peak"),
            Line2D([], [], color=ink, marker="s", markersize=4, linestyle="--", label="(b) end"),
            Line2D([], [], color=ink, linestyle="-.", label="(b) end, report panel"),
            Line2D([], [], color=ink, linestyle=(0, (1, 1)), label="(c) stationary null"),
        ]
    text = "(c) the paper's mean onset"
    return [*handles, Line2D([], [], color=ink, linestyle=(0, (4, 2)), label=text)]
