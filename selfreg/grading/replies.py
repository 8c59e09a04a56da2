"""The judge's replies to the pool."""

from typing import Any

from selfreg.grading.child import Ended
from selfreg.grading.program import DETAIL_CHARACTERS

Reply = dict[str, Any]


def split_report(report: str) -> tuple[str, str]:
    """Return the outcome and detail of a report, which only says how a program failed."""
    outcome, _, detail = report.partition("\n")
    known = outcome in ("failed", "exception", "memory", "compile_error")
    return (outcome, detail) if known else ("exception", "")


def make_reply(
    outcome: str,
    detail: str = "",
    ended: Ended | None = None,
    cpu_s: float = 0.0,
    peak_mb: float = 0.0,
) -> Reply:
    """Make a reply. A child's own use of CPU and memory takes precedence over the numbers."""
    if ended is not None:
        cpu_s, peak_mb = ended.cpu_s, ended.peak_mb
    cut = detail[:DETAIL_CHARACTERS]
    return {"outcome": outcome, "time_s": cpu_s, "peak_mb": peak_mb, "detail": cut}
