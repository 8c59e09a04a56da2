"""HTML pages of other people's runs: one a run, and one that compares several."""

from collections.abc import Sequence

from selfreg.analysis import page
from selfreg.audit import compare, draw, show
from selfreg.audit.judge import Audit
from selfreg.audit.logs import Log


def run_page(log: Log, audit: Audit, text: str) -> str:
    """One run: the verdict, the picture, the numbers, and how the file was read."""
    return page.render(
        "audit.html.j2",
        title=show.title(log),
        heading=show.heading(audit),
        failed=bool(audit.failure),
        lines=text.splitlines()[1:],
        picture_of=page.themed(lambda theme: draw.figure(log, audit, theme)),
        numbers=[dict(show.row(log, audit))],
        indicators=_indicator_rows(text, log),
    )


def comparison_page(
    runs: Sequence[tuple[Log, Audit]], links: Sequence[str], errors: Sequence[str]
) -> str:
    """Several runs: their curves, a row each, and seeds paired where names say so."""
    return page.render(
        "audits.html.j2",
        title=f"{len(runs)} runs",
        picture_of=page.themed(lambda theme: draw.overlay(runs, theme)),
        rows=[dict(show.row(log, audit)) for log, audit in runs],
        pairs=[compare.describe(pair) for pair in compare.pairs(runs)],
        runs=[
            {"name": show.title(log), "heading": show.heading(audit), "link": link}
            for (log, audit), link in zip(runs, links, strict=True)
        ],
        errors=list(errors),
    )


def _indicator_rows(text: str, log: Log) -> list[dict[str, str]]:
    rows = []
    for line in text.splitlines()[-len(log.indicators) :] if log.indicators else []:
        name, _, rest = line.rstrip(".").partition(": ")
        parts = [part.split(" ", 1) for part in rest.split(", ")]
        rows.append({"indicator": name, **{p[0]: p[-1] for p in parts}})
    return rows
