"""Tables 13, 14 and 15: policies measured on held-out panels, without further training."""

from collections.abc import Sequence

import numpy as np

from selfreg.analysis.load import Run
from selfreg.analysis.paper import published
from selfreg.analysis.paper.tables_cells import (
    MEASURED,
    NOT_MEASURED,
    NOT_RUN,
    PAPER,
    Cells,
    Row,
    Table,
    Values,
    block,
    by_runs,
    finish,
    panel_estimate,
)
from selfreg.analysis.paper.tables_runs import (
    REPORT_PANEL,
    PaperRuns,
    ends,
    metric_of,
    panel,
    panel_scores,
)
from selfreg.analysis.stats import Difference, panel_difference
from selfreg.run.records import PanelScore

# Names of the panels in config.evaluation.capabilities.
CPP, OOD = "cpp", "ood"


def table_13(runs: PaperRuns) -> Table:
    """Build Table 13: the base policy, two ways to chain it, and a larger frozen policy."""
    printed = published.tables()[13]
    places = ("start", "end", "end", "end")
    rows = []
    for row, place in zip(printed.rows, places, strict=True):
        own = runs.of(row.runs)
        campaign = 0 if place == "start" else -1
        scores = panel_scores(own, place, campaign)
        rows += block(row, {REPORT_PANEL: [panel_estimate(scores, 1, 100.0)]} if own else None)
    return finish(printed, runs, rows, _panel_ends)


def table_14(runs: PaperRuns) -> Table:
    """Build Table 14: final checkpoints on the report panel, the cpp panel and the ood panel."""

    def measure(own: Sequence[Run]) -> Cells:
        main = panel_estimate(panel_scores(own, "end"), 1, 100.0)
        return {"held-out panels": [main, _capability(own, CPP), _capability(own, OOD)]}

    return by_runs(14, runs, measure, _panel_ends)


def table_15(runs: PaperRuns) -> Table:
    """Build Table 15: whether A0 and A3 rank differently on Python and on C++, by seed."""
    printed = published.tables()[15]
    naive, care = runs.both(*printed.column_runs)
    pairs = {run.seed: (run, other) for run, other in zip(naive, care, strict=True)}
    rows = []
    for row in printed.rows:
        rows.append(Row(row.labels, PAPER, row.cells))
        seed = int(row.labels[0])
        if seed not in pairs:
            rows.append(Row(row.labels, MEASURED, (NOT_RUN,) * len(row.cells)))
            continue
        metrics = [ends([run])[metric_of([run])][0] for run in pairs[seed]]
        text = " / ".join(f"{100 * value:.1f}" for value in metrics)
        rows.append(Row(row.labels, metric_of(naive), (text, NOT_MEASURED, "–")))
        rows.append(Row(row.labels, "held-out panels", _disagreement(*pairs[seed])))
    notes = [
        "± one standard error over problems; each cell is one chain. A disagreement is within "
        "noise if the 95% interval of either difference, paired by problem, contains 0."
    ]
    return finish(printed, runs, rows, notes=notes)


def _panel_ends(own: Sequence[Run]) -> Values:
    return {REPORT_PANEL: panel(own, "end")[:, -1]}


def _capability(own: Sequence[Run], name: str) -> str:
    scores = [score for run in own if (score := _last(run, name))]
    return panel_estimate(scores, 1, 100.0) if scores else NOT_MEASURED


def _last(run: Run, name: str) -> PanelScore | None:
    """Return a capability score of the chain's last policy; None if it was not measured."""
    return run.summaries[-1].capabilities.get(name, {}).get("end")


def _disagreement(naive: Run, care: Run) -> tuple[str, str, str]:
    """Format the main and C++ scores, and whether they rank the two conditions differently."""
    main, other = panel_scores((naive, care), "end"), [_last(run, CPP) for run in (naive, care)]
    if other[0] is None or other[1] is None:
        return _scores(main), NOT_MEASURED, NOT_MEASURED
    on_cpp = [score for score in other if score]
    first, second = panel_difference(main[1], main[0]), panel_difference(on_cpp[1], on_cpp[0])
    text = "✓" if np.sign(first.mean) * np.sign(second.mean) < 0 else "–"
    if text == "✓" and (_holds_zero(first) or _holds_zero(second)):
        text += " (within noise)"
    return _scores(main), _scores(on_cpp), text


def _scores(scores: Sequence[PanelScore]) -> str:
    return " / ".join(f"{100 * s.pass_at_1:.1f} ± {100 * s.standard_error:.1f}" for s in scores)


def _holds_zero(difference: Difference) -> bool:
    return difference.low <= 0 <= difference.high
