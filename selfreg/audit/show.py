"""An audit in words and as a picture."""

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from selfreg.analysis.plot import DPI, LIGHT, WIDTH_IN, style
from selfreg.analysis.verdict import Finding
from selfreg.analysis.words import p_value
from selfreg.audit.judge import Audit
from selfreg.audit.logs import Log

_TITLES = {
    Finding.COLLAPSED: "COLLAPSED beyond noise",
    Finding.DECLINED: "declined beyond noise, by less than the margin",
    Finding.NOISE: "a drop cannot be told from noise here, nor ruled out",
    Finding.NO_DROP: "no drop, the end is the peak",
    Finding.NOTHING_TO_LOSE: "nothing to lose, the peak is below the margin",
    Finding.IMPROVED: "improved beyond noise, and no drop as large as the margin",
    Finding.STABLE: "stable: any drop is smaller than the margin",
}


def describe(log: Log, audit: Audit) -> str:
    """A few lines: the verdict, its null, what stopping would have kept, leading indicators."""
    shape, gap, online = audit.shape, audit.gap, audit.online
    first, last = int(log.steps[0]), int(log.steps[-1])
    lines = [
        f"{log.file} ({log.format}, {log.column}, steps {first} to {last}): "
        f"{_TITLES[audit.finding]}.",
        f"Mean of {audit.window} values: peak {shape.peak:.3f} at step {shape.peak_step}, end "
        f"{shape.end:.3f}, drop {gap.observed:.3f}, {p_value(gap.p)}; without the luck of "
        f"the selected peak, drop {audit.corrected_drop:.3f} and peak {audit.corrected_peak:.3f} "
        "at least.",
        f"A policy that stands still shows a drop of {gap.null_mean:.3f} "
        f"[{gap.null_low:.3f}, {gap.null_high:.3f}] (n = {len(log.values)} values of "
        f"{audit.samples_per_step} samples, {audit.problems_per_step} problems; noise sd "
        f"{audit.noise_sd:.3f} a value). Steps in random order: {p_value(audit.permutation_p)}.",
        f"First window to last: {audit.gain:+.3f}, {p_value(audit.gain_p)} for a rise.",
        f"ES keeps step {audit.early_stop.step} and budgets {audit.next_budget} steps next; the "
        + (
            f"online rule stops at step {online.stop_step} and keeps step {online.step} "
            f"({online.value:.3f})."
            if online.stop_step is not None
            else f"online rule never fires, and step {online.step} is its peak."
        ),
    ]
    lines += [_indicator(name, log, audit) for name in log.indicators]
    return "\n".join(lines)


def figure(log: Log, audit: Audit, low: float = 0.0, high: float = 1.0) -> Figure:
    """The metric, its smoothed form, what a still policy's peak would be, and the indicators.

    Args:
      log: What was read.
      audit: Its verdict.
      low: The reward of a fail.
      high: That of a pass.
    """
    names, theme = list(log.indicators), LIGHT
    with matplotlib.rc_context(style(theme)):
        picture = Figure((WIDTH_IN, 3.2 + 0.9 * len(names)), dpi=DPI, layout="constrained")
        ratios = [3.2] + [0.9] * len(names)
        axes = np.atleast_1d(picture.subplots(1 + len(names), sharex=True, height_ratios=ratios))
        top = axes[0]
        rates = (log.values - low) / (high - low)
        top.plot(log.steps, rates, ".", color=theme.faint, markersize=3, label=log.column)
        top.plot(audit.steps, audit.smoothed, color=theme.lines[0], label=f"mean of {audit.window}")
        end = audit.shape.end
        top.axhspan(
            end + audit.gap.null_low, end + audit.gap.null_high, color=theme.lines[4], alpha=0.2,
            linewidth=0, label="95% of peaks, had it stood still",
        )  # fmt: skip
        top.axvline(audit.shape.peak_step, color=theme.lines[2], linewidth=1, label="peak: ES")
        if audit.online.stop_step is not None:
            top.axvline(
                audit.online.stop_step, color=theme.lines[1], linewidth=1, label="online rule stops"
            )
        top.set_ylim(-0.02, 1.02)
        top.set_title(_TITLES[audit.finding])
        for ax, name in zip(axes[1:], names, strict=True):
            ax.plot(log.steps, log.indicators[name][1], color=theme.lines[3], linewidth=1)
            ax.set_title(f"{name} ({log.indicators[name][0]})")
        axes[-1].set_xlabel("step")
        axes[-1].xaxis.set_major_locator(MaxNLocator(6, integer=True))
        picture.legend(loc="outside lower left", ncols=2, frameon=False)
    return picture


def _indicator(name: str, log: Log, audit: Audit) -> str:
    """Means over a window at the start, up to the peak and at the end."""
    theirs, values = log.indicators[name]
    window = audit.window
    peak = int(np.searchsorted(log.steps, audit.shape.peak_step)) + 1
    parts = (values[:window], values[max(0, peak - window) : peak], values[-window:])
    shown = [f"{np.nanmean(p):.4g}" if np.isfinite(p).any() else "absent" for p in parts]
    return f"{name} ({theirs}): start {shown[0]}, peak {shown[1]}, end {shown[2]}."
