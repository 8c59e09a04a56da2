"""Tables of the ends of chains: 1, 2, 4 to 10, 12 and 17."""

from collections.abc import Sequence

import numpy as np

from selfreg.analysis.load import Run
from selfreg.analysis.paper import published
from selfreg.analysis.paper.tables_cells import (
    MEASURED,
    NOT_MEASURED,
    NOT_RUN,
    NULL,
    NULL_NOTE,
    PAPER,
    Cells,
    Row,
    Table,
    Values,
    beside_null,
    by_runs,
    end_estimates,
    estimate,
    finish,
    panel_estimate,
    percent,
)
from selfreg.analysis.paper.tables_runs import (
    REPORT_PANEL,
    PaperRuns,
    ends,
    measured,
    metric_of,
    null_chains,
    panel,
    panel_scores,
    series,
)
from selfreg.analysis.trajectory import COLLAPSE_RATIO, exceeds
from selfreg.analysis.verdict import judge_run
from selfreg.run.records import peak_index

_NONE = "–"
_COLLAPSE_NOTE = "Collapse rate: share of chains whose last campaign ends below 30% of its peak."
_HINDSIGHT_NOTE = (
    "Both oracles are maxima of noisy values. Hindsight on the report panel is the peak of the "
    "campaign whose own metric peaked highest, measured again. Steps: those until the online rule "
    "stops; for ES, all steps."
)


def table_1(runs: PaperRuns) -> Table:
    """Build Table 1: start, peak and end of three campaigns under KL penalties."""

    def measure(own: Sequence[Run]) -> Cells:
        values, shape = series(own)[0], measured(own).campaigns
        metric, report = [], []
        for c in range(min(3, values.shape[1])):
            stages = (values[:, c, 0], shape.peak[:, c], shape.end[:, c])
            metric += [estimate(stage, 2) for stage in stages]
            places = ("start", "peak", "end")
            report += [panel_estimate(panel_scores(own, place, c), 2) for place in places]
        missing = [_NONE] * (9 - len(metric))
        return {metric_of(own): metric + missing, REPORT_PANEL: report + missing}

    return by_runs(1, runs, measure)


def table_2(runs: PaperRuns) -> Table:
    """Build Table 2: training continued from three checkpoints, with our verdict."""

    def measure(own: Sequence[Run]) -> Cells:
        values, chain = series(own)[0], measured(own)
        means = [float(run.traces[0].series()[1].mean()) for run in own]
        start, end = (panel_scores(own, place, 0) for place in ("start", "end"))
        found = ", ".join(judge_run(run).campaigns[0].finding.value for run in own)
        return {
            metric_of(own): [
                estimate(values[:, 0, 0], 2), estimate(chain.end, 2), estimate(means, 2), _NONE,
            ],
            REPORT_PANEL: [panel_estimate(start, 2), panel_estimate(end, 2), NOT_MEASURED, found],
        }  # fmt: skip

    return by_runs(2, runs, measure)


def table_4(runs: PaperRuns) -> Table:
    """Build Table 4: ends and collapse rate for the modules of CARE v2."""
    return by_runs(4, runs, _ends_and_collapses, notes=[_COLLAPSE_NOTE])


def table_5(runs: PaperRuns) -> Table:
    """Build Table 5: ends of the baselines in two languages."""
    return by_runs(5, runs, _only_ends)


def table_6(runs: PaperRuns) -> Table:
    """Build Table 6: ends of long chains at two scales."""
    return by_runs(6, runs, _ends_and_n)


def table_7(runs: PaperRuns) -> Table:
    """Build Table 7: compute efficiency, as updates, ends, and ends per 100 updates."""

    def measure(own: Sequence[Run]) -> Cells:
        steps, per_100 = estimate(measured(own).total_steps, 0), _per_100_steps(own)
        return {
            name: [steps, text, estimate(per_100[name], 2, 100.0)]
            for name, text in end_estimates(own).items()
        }

    return by_runs(7, runs, measure, _per_100_steps)


def table_8(runs: PaperRuns) -> Table:
    """Build Table 8: campaigns with end / peak < 0.3, in measured and in stationary chains."""

    def count(own: Sequence[Run]) -> Values:
        fell = exceeds(COLLAPSE_RATIO * panel(own, "peak"), panel(own, "end"))
        return {metric_of(own): measured(own).collapses, REPORT_PANEL: fell.sum(axis=1) + 0.0}

    def measure(own: Sequence[Run]) -> Cells:
        cells = {
            name: [
                f"{counts.mean():.1f}",
                estimate(counts > 0, 0, 100.0, unit="%"),
                estimate(counts, 2),
            ]
            for name, counts in count(own).items()
        }
        null = null_chains(own)
        if null is not None:
            some = beside_null(own, null, lambda c: (c.collapses > 0) + 0.0, 0, 100.0)
            cells[NULL] = [_NONE, some, beside_null(own, null, lambda c: c.collapses, 2)]
        return cells

    return by_runs(8, runs, measure, count, scale=1.0, notes=[NULL_NOTE])


def table_9(runs: PaperRuns) -> Table:
    """Build Table 9: the values that oracles would have kept, beside the stationary null."""

    def measure(own: Sequence[Run]) -> Cells:
        chain, is_es = measured(own), own[0].condition == "ES"
        steps = estimate(chain.total_steps if is_es else chain.trace_oracle_steps, 0)
        kept = _NONE if is_es else percent(chain.trace_oracle)
        # The control's metric selects the campaign, so the report panel's score is unbiased.
        best = peak_index(chain.campaigns.peak)
        hindsight = panel(own, "peak")[np.arange(len(own)), best]
        cells = {
            metric_of(own): [percent(chain.end), kept, steps, percent(chain.hindsight_oracle)],
            REPORT_PANEL: [percent(panel(own, "end")[:, -1]), _NONE, _NONE, percent(hindsight)],
        }
        null = null_chains(own)
        if null is not None:
            cells[NULL] = [
                beside_null(own, null, lambda c: c.end, 1, 100.0, low_is_extreme=True),
                _NONE if is_es else beside_null(own, null, lambda c: c.trace_oracle, 1, 100.0),
                _NONE,
                beside_null(own, null, lambda c: c.hindsight_oracle, 1, 100.0),
            ]
        return cells

    return by_runs(9, runs, measure, notes=[_HINDSIGHT_NOTE, NULL_NOTE])


def table_10(runs: PaperRuns) -> Table:
    """Build Table 10: ends of GRPO and REINFORCE."""
    return by_runs(10, runs, _ends_and_n)


def table_12(runs: PaperRuns) -> Table:
    """Build Table 12: early stop on GRPO against naive GRPO, by seed."""
    printed = published.tables()[12]
    with_es, naive = runs.both(*printed.column_runs)
    pairs = {run.seed: (run, other) for run, other in zip(with_es, naive, strict=True)}
    rows = []
    for row in printed.rows:
        rows.append(Row(row.labels, PAPER, row.cells))
        name = row.labels[0]
        own = list(pairs.values()) if name.startswith("mean") else []
        if name.startswith("s") and int(name[1:]) in pairs:
            own = [pairs[int(name[1:])]]
        if not own:
            rows.append(Row(row.labels, MEASURED, (NOT_RUN,) * 3))
            continue
        ours, theirs = (ends(column) for column in zip(*own, strict=True))
        for reading in (name for name in ours if name in theirs):
            difference = estimate(ours[reading] - theirs[reading], 2, 100.0, "+")
            texts = (end_estimates(column, 2)[reading] for column in zip(*own, strict=True))
            rows.append(Row(row.labels, reading, (*texts, difference)))
    return finish(printed, runs, rows)


def table_17(runs: PaperRuns) -> Table:
    """Build Table 17: ends and collapse rate for the modules of CARE v1."""
    return by_runs(17, runs, _ends_and_collapses, notes=[_COLLAPSE_NOTE])


def _only_ends(own: Sequence[Run]) -> Cells:
    return {name: [text] for name, text in end_estimates(own).items()}


def _ends_and_n(own: Sequence[Run]) -> Cells:
    return {name: [text, str(len(own))] for name, text in end_estimates(own).items()}


def _ends_and_collapses(own: Sequence[Run]) -> Cells:
    last = measured(own).campaigns.collapsed[:, -1]
    peak, end = (panel(own, place)[:, -1] for place in ("peak", "end"))
    collapsed = (last, exceeds(COLLAPSE_RATIO * peak, end))
    return {
        name: [text, percent(fell)]
        for (name, text), fell in zip(end_estimates(own).items(), collapsed, strict=True)
    }


def _per_100_steps(own: Sequence[Run]) -> Values:
    steps = measured(own).total_steps
    return {
        name: np.divide(100 * end, steps, out=np.full(len(end), np.nan), where=steps > 0)
        for name, end in ends(own).items()
    }
