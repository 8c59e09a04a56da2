"""Plot an audit: the metric, its smoothed series, its null, and the leading indicators."""

import textwrap
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from selfreg.analysis.theme import DPI, LIGHT, WIDTH_IN, Theme, style
from selfreg.integrations.audit.compare import condition
from selfreg.integrations.audit.judge import Audit
from selfreg.integrations.audit.logs import Log
from selfreg.integrations.audit.show import heading, step, unit

# With more dots than this they are rasterized: as vectors they would take megabytes.
_MANY = 500
_LETTERS = 58
_NAMED = 12  # with more conditions than this the legend is left out, and the table names them


def figure(log: Log, audit: Audit, theme: Theme = LIGHT) -> Figure:
    """Plot one run.

    Args:
      log: The run's log.
      audit: The verdict on it.
      theme: Colours.
    """
    names = list(log.indicators)
    with matplotlib.rc_context(style(theme)):
        picture = Figure((WIDTH_IN, 3.7 + 0.9 * len(names)), dpi=DPI, layout="constrained")
        ratios = [3.2] + [0.9] * len(names)
        axes = np.atleast_1d(picture.subplots(1 + len(names), sharex=True, height_ratios=ratios))
        _draw_metric(axes[0], log, audit, theme)
        for ax, name in zip(axes[1:], names, strict=True):
            one = log.indicators[name]
            ax.plot(
                one.steps, one.values, color=theme.lines[3], linewidth=1,
                rasterized=len(one.steps) > _MANY,
            )  # fmt: skip
            ax.set_title(_wrapped(f"{name} ({one.column})"), fontsize=9, pad=3)
            ax.yaxis.set_major_locator(MaxNLocator(3))
        axes[-1].set_xlabel(f"step ({log.clock})" if "counted" in log.clock else "step")
        axes[-1].xaxis.set_major_locator(MaxNLocator(6, integer=True))
        name = f"{log.file.name} [{log.name}]" if log.name else _short(log)
        picture.suptitle(_wrapped(name), fontsize=9, x=0.01, ha="left", color=theme.faint)
        picture.legend(loc="outside lower left", ncols=2, frameon=False)
    return picture


def overlay(runs: Sequence[tuple[Log, Audit]], theme: Theme = LIGHT) -> Figure:
    """Plot the smoothed metrics of several runs, one colour per condition and axes per unit."""
    names = list(dict.fromkeys(condition(log)[0] for log, _ in runs))
    units: dict[str, list[tuple[Log, Audit]]] = {}
    for log, audit in runs:
        units.setdefault("rates" if audit.counts.rate else log.column, []).append((log, audit))
    with matplotlib.rc_context(style(theme)):
        picture = Figure((WIDTH_IN, 0.9 + 2.4 * len(units)), dpi=DPI, layout="constrained")
        all_axes = np.atleast_1d(picture.subplots(len(units)))
        shown: set[str] = set()
        for ax, (title, own) in zip(all_axes, units.items(), strict=True):
            for log, audit in own:
                name = condition(log)[0]
                number = names.index(name)
                ax.plot(
                    audit.steps, audit.smoothed, "-" if number < len(theme.lines) else "--",
                    color=theme.lines[number % len(theme.lines)], linewidth=1.2,
                    label=None if name in shown else textwrap.shorten(name, 40, placeholder="..."),
                )  # fmt: skip
                shown.add(name)
            columns = ", ".join(dict.fromkeys(unit(log, audit) for log, audit in own))
            ax.set_title(
                _wrapped(f"{columns}, smoothed" if title == "rates" else f"{title}, smoothed")
            )
            ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            if title == "rates":
                ax.set_ylim(-0.03, 1.03)
        all_axes[-1].set_xlabel("step")
        if len(names) <= _NAMED:
            picture.legend(loc="outside lower left", ncols=2, frameon=False)
    return picture


def _draw_metric(ax: Axes, log: Log, audit: Audit, theme: Theme) -> None:
    counts = audit.counts
    finite = np.isfinite(log.values)
    steps, values = log.steps[finite], log.values[finite]
    if counts.rate:
        values = (values - counts.low) / (counts.high - counts.low)
    ax.plot(
        steps, values, ".", color=theme.faint, markersize=3, markeredgewidth=0,
        label="as logged" if (counts.low, counts.high) == (0, 1) or not counts.rate else
        f"{counts.low:g} drawn as 0, {counts.high:g} as 1", rasterized=len(steps) > _MANY,
    )  # fmt: skip
    ax.plot(
        audit.steps, audit.smoothed, color=theme.lines[0], label=f"mean of {audit.window} values"
    )
    end = audit.shape.end
    ax.axhspan(
        end + audit.gap.null_low, end + audit.gap.null_high, color=theme.lines[4], alpha=0.2,
        linewidth=0, label="95% of peaks without any change",
    )  # fmt: skip
    ax.axvline(
        audit.shape.peak_step, color=theme.lines[2], linewidth=1,
        label=f"peak: ES, step {step(audit.shape.peak_step)}",
    )  # fmt: skip
    if audit.online.stop_step is not None:
        ax.axvline(
            audit.online.stop_step, color=theme.lines[1], linewidth=1,
            label=f"online rule stops, step {step(audit.online.stop_step)}",
        )  # fmt: skip
    if audit.failure and not finite[-1]:
        ax.axvspan(
            log.steps[np.flatnonzero(finite)[-1]], log.steps[-1], color=theme.lines[1], alpha=0.25,
            linewidth=0, label="nan or infinite",
        )  # fmt: skip
    if counts.rate:
        ax.set_ylim(-0.03, 1.03)
    ax.set_ylabel(textwrap.shorten(log.column, 40, placeholder="..."))
    ax.set_title(_wrapped(heading(audit)))


def _short(log: Log) -> str:
    parts = log.file.parts
    return "/".join(parts[-2:])


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.wrap(text, _LETTERS, break_long_words=True)[:4])
