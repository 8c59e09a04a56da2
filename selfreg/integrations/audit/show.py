"""Describe an audit in words: a heading, and a few lines of evidence."""

from collections.abc import Mapping

import numpy as np

from selfreg.analysis.finding import Finding, p_value
from selfreg.integrations.audit.judge import Audit
from selfreg.integrations.audit.logs import Log

_SURE = "beyond noise"


def title(log: Log) -> str:
    """Return the run's file, with the run's name if the file holds several."""
    return f"{log.file} [{log.name}]" if log.name else str(log.file)


def label(log: Log) -> str:
    """Return the run's name, or its file with the folder, which often says more than the file."""
    return log.name or "/".join(log.file.resolve().parts[-2:])


def heading(audit: Audit) -> str:
    """Return the verdict as a clause."""
    if audit.failure:
        return f"FAILED: {audit.failure}"
    if np.ptp(audit.smoothed) == 0 and audit.noise.sd == 0:
        if audit.level == 0 and audit.counts.rate:
            return f"never rewarded: all {audit.values} values are {audit.counts.low:g}"
        return f"no change: all {audit.values} values are {value(audit.level, audit)}"
    rose = f"rose by {audit.gain:.3g} {_SURE}"
    if audit.finding is Finding.IMPROVED:
        if audit.most < audit.margin or audit.gap.observed <= 0:
            return f"{rose}, with no drop as large as the margin"
        return f"{rose}; a drop of up to {audit.most:.3g} since the peak is not ruled out"
    if audit.finding is Finding.COLLAPSED:
        return f"COLLAPSED {_SURE}"
    if audit.finding is Finding.DECLINED:
        return f"declined {_SURE}, by less than the margin"
    if audit.finding is Finding.NOISE:
        return "a drop can neither be distinguished from noise nor ruled out"
    if audit.finding is Finding.NO_DROP:
        return "no drop, the end is the peak"
    if audit.finding is Finding.NOTHING_TO_LOSE:
        return "nothing to lose, the peak is below the margin"
    return "stable: any drop is smaller than the margin"


def describe(log: Log, audit: Audit) -> str:
    """Describe the audit in a few lines: verdict, null, stopping rules and leading indicators."""
    shape, gap, online = audit.shape, audit.gap, audit.online
    lines = [
        f"{title(log)}: {heading(audit)}.",
        read(log),
        f"{unit(log, audit)}, mean of {audit.window} values: start {audit.smoothed[0]:.3g}, "
        f"peak {shape.peak:.3g} at step {step(shape.peak_step)}, end {shape.end:.3g}: drop "
        f"{gap.observed:.3g}, {p_value(gap.p)}; corrected for the selection of the peak at least "
        f"{audit.corrected_drop:.3g}, and at most {audit.most:.3g} (margin {audit.margin:.3g}).",
        f"A policy that does not change shows a drop of {gap.null_mean:.3g} [{gap.null_low:.3g}, "
        f"{gap.null_high:.3g}]"
        + (
            f"; steps in random order: {p_value(audit.permutation_p)}."
            if audit.permutation_p is not None
            else "."
        ),
        f"Noise: {noise(audit)}.",
        f"First window to last: {audit.gain:+.3g}, {p_value(audit.gain_p)} for a rise.",
        f"ES keeps step {step(audit.early_stop.step)} and budgets {audit.next_budget} steps next; "
        "the "
        + (
            f"online rule stops at step {step(online.stop_step)} and keeps step "
            f"{step(online.step)} ({online.value:.3g})."
            if online.stop_step is not None
            else f"online rule never stops, and keeps step {step(online.step)}."
        ),
    ]
    if len(log.parts) > 1:
        lines.append(
            f"Parts of the metric, judged one by one with --column: {', '.join(log.parts)}."
        )
    lines += [f"{name}: {told}." for name, told in indicators(log, audit).items()]
    return "\n".join(lines)


def read(log: Log) -> str:
    """Describe what was read, and which rows do not count."""
    finite = int(np.isfinite(log.values).sum())
    parts = [
        f"Read as {log.format}: {finite} values of {log.column!r} at steps {step(log.steps[0])} to "
        f"{step(log.steps[-1])} ({log.clock})"
    ]
    lost = dict(log.dropped or {})
    if bad := len(log.values) - finite:
        lost["nan or infinite"] = bad
    dropped = ", ".join(f"{count} {reason}" for reason, count in lost.items())
    parts.append(
        f"of {log.rows + sum((log.dropped or {}).values())} rows; dropped {dropped or 'none'}"
    )
    parts.append(f"repeated {log.repeated or 'none'}")
    return "; ".join([*parts, *log.notes]) + "."


def noise(audit: Audit) -> str:
    """Describe the noise and how it was found."""
    found, counts = audit.noise, audit.counts
    what = f"mean of {audit.per_reading} values" if audit.per_reading > 1 else "value"
    text = f"sd {found.sd:.3g} per {what}"
    if counts.samples is not None:
        of = f" of {counts.problems} problems" if counts.problems is not None else ""
        text += f", {counts.samples} samples{of} per value ({counts.why})"
    else:
        text += f"; {counts.why}"
    if found.binomial_sd and found.excess is not None:
        text += f"; independent samples alone would give {found.binomial_sd:.3g}"
        if found.excess > 1.2:
            text += f", and the variance is {found.excess:.1f} times as large"
        if found.overdispersed:
            text += ": OVERDISPERSED, so the measured noise is used"
    if found.autocorrelation:
        text += (
            f"; the noise of neighbouring values has autocorrelation {found.autocorrelation:.2f}, "
            "which is accounted for"
        )
    return text


def unit(log: Log, audit: Audit) -> str:
    """Name the quantity that was judged."""
    counts = audit.counts
    if not counts.rate or (counts.low, counts.high) == (0, 1):
        return log.column
    return f"share of the way from {counts.low:g} to {counts.high:g} of {log.column}"


def value(rate: float, audit: Audit) -> str:
    """Format a judged number in the unit of the file."""
    counts = audit.counts
    return f"{counts.low + rate * (counts.high - counts.low) if counts.rate else rate:g}"


def step(number: float) -> str:
    """Format a step, which need not be a whole number."""
    return f"{number:.0f}" if float(number).is_integer() else f"{number:g}"


def row(log: Log, audit: Audit) -> Mapping[str, str]:
    """Format the run as a table row."""
    return {
        "run": label(log),
        "verdict": audit.finding.value,
        "start": f"{audit.smoothed[0]:.3g}",
        "peak": f"{audit.shape.peak:.3g}",
        "at step": step(audit.shape.peak_step),
        "end": f"{audit.shape.end:.3g}",
        "drop": f"{audit.gap.observed:.3g}, {p_value(audit.gap.p)}",
        "rise": f"{audit.gain:+.3g}, {p_value(audit.gain_p)}",
        "steps": f"{step(log.steps[0])} to {step(log.steps[-1])}",
    }


def indicators(log: Log, audit: Audit) -> dict[str, str]:
    """Format each indicator's means over the first window, the peak's window and the last."""
    ends = audit.steps
    width = float(ends[0] - log.steps[0])
    told = {}
    for name, one in log.indicators.items():
        shown = []
        for end in (ends[0], audit.shape.peak_step, ends[-1]):
            part = one.values[(one.steps >= end - width) & (one.steps <= end)]
            part = part[np.isfinite(part)]
            shown.append(f"{part.mean():.4g}" if len(part) else "absent")
        told[f"{name} ({one.column})"] = f"start {shown[0]}, peak {shown[1]}, end {shown[2]}"
    return told
