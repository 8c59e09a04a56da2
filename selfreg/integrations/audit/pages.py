"""HTML pages of audits: one for each run, and one that compares several."""

from collections.abc import Mapping, Sequence

from selfreg.analysis import page
from selfreg.integrations.audit import compare, draw, show
from selfreg.integrations.audit.judge import Audit
from selfreg.integrations.audit.logs import Log


def run_page(log: Log, audit: Audit, text: str) -> str:
    """Render the page of one run: verdict, plot, numbers, and how the file was read."""
    told, lines = show.indicators(log, audit), text.splitlines()
    return page.render(
        "audit.html.j2",
        title=show.title(log),
        heading=show.heading(audit),
        failed=bool(audit.failure),
        lines=lines[1 : len(lines) - len(told)],
        picture_of=page.themed(lambda theme: draw.figure(log, audit, theme)),
        numbers=[dict(show.row(log, audit))],
        indicators=_indicator_rows(told),
    )


def comparison_page(
    runs: Sequence[tuple[Log, Audit]], links: Sequence[str], errors: Sequence[str]
) -> str:
    """Render the comparison of several runs: curves, a table, and pairs by seed."""
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


def _indicator_rows(told: Mapping[str, str]) -> list[dict[str, str]]:
    return [
        {"indicator": name, **dict(part.split(" ", 1) for part in text.split(", "))}
        for name, text in told.items()
    ]
