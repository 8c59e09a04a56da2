"""Tables 11 and 16, the shape of campaigns, beside the values of a policy that does not change.

The unit is the chain, because the campaigns of a chain depend on each other. Each statistic is
averaged over the campaigns of a chain in which it is defined, and the interval is over chains.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from selfreg.analysis.chains import Chains
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
    estimate,
    finish,
)
from selfreg.analysis.paper.tables_runs import (
    REPORT_PANEL,
    PaperRuns,
    Statistic,
    mean,
    measured,
    metric_of,
    null_chains,
    panel,
)
from selfreg.analysis.trajectory import GAP_LEVELS, exceeds
from selfreg.analysis.verdict import judge_run


class Measure(NamedTuple):
    """One row of Table 11.

    Attributes:
      of: The statistic, one value per chain.
      digits: Digits after the decimal point.
      unit: "%" for percent.
      low_is_extreme: Whether small values indicate a collapse.
    """

    of: Statistic
    digits: int
    unit: str = ""
    low_is_extreme: bool = False

    @property
    def scale(self) -> float:
        """The factor for printed values: 100 for percent."""
        return 100.0 if self.unit == "%" else 1.0


def mean_peak(chain: Chains) -> np.ndarray:
    """Return the mean of the campaigns' peaks, [N]."""
    return mean(chain.campaigns.peak)


def mean_end(chain: Chains) -> np.ndarray:
    """Return the mean of the campaigns' ends, [N]."""
    return mean(chain.campaigns.end)


def mean_gap(chain: Chains) -> np.ndarray:
    """Return the mean of the campaigns' peak - end, [N]."""
    return mean(chain.campaigns.gap)


def gap_rate(level: float) -> Statistic:
    """Return a statistic [N]: the share of campaigns whose gap exceeds a level."""

    def rate(chain: Chains) -> np.ndarray:
        ran = ~np.isnan(chain.campaigns.gap)
        return mean(np.where(ran, chain.campaigns.gap_above(level), np.nan))

    return rate


def phase_transition(chain: Chains) -> np.ndarray:
    """Return the mean phase-transition score of the campaigns that have one, [N]."""
    return mean(chain.campaigns.phase_transition)


def onset_step(chain: Chains) -> np.ndarray:
    """Return the mean onset step of the campaigns that have one, [N]."""
    return mean(chain.campaigns.onset_step)


def latency_steps(chain: Chains) -> np.ndarray:
    """Return the mean latency of the campaigns that have an onset, [N]."""
    return mean(chain.campaigns.latency_steps)


_TABLE_11 = (
    Measure(mean_peak, 3),
    Measure(mean_end, 3, low_is_extreme=True),
    Measure(mean_gap, 3),
    *(Measure(gap_rate(level), 0, "%") for level in GAP_LEVELS),
)
_TABLE_16 = (
    (phase_transition, 2, False),
    (onset_step, 1, True),  # falls by noise alone come late and are short
    (latency_steps, 1, False),
)


def table_11(runs: PaperRuns) -> Table:
    """Build Table 11: mean peak, end and gap of naive campaigns, REINFORCE against GRPO."""
    printed = published.tables()[11]
    columns = [_column_11(runs.of(source)) for source in printed.column_runs]
    rows = []
    for i, row in enumerate(printed.rows):
        rows.append(Row(row.labels, PAPER, row.cells))
        for reading in dict.fromkeys(name for column in columns for name in column):
            own = [column.get(reading, {}).get(i) for column in columns]
            if any(own):
                missing = [NOT_MEASURED if column else NOT_RUN for column in columns]
                cells = tuple(text or gap for text, gap in zip(own, missing, strict=True))
                rows.append(Row(row.labels, reading, cells))
        if not any(columns):
            rows.append(Row(row.labels, MEASURED, (NOT_RUN,) * len(columns)))

    def compared(own: Sequence[Run]) -> Values:
        gaps = (panel(own, "peak") - panel(own, "end")).mean(axis=1)
        return {metric_of(own): mean_gap(measured(own)), REPORT_PANEL: gaps}

    return finish(printed, runs, rows, compared, scale=1.0, digits=3, notes=[NULL_NOTE])


def table_16(runs: PaperRuns) -> Table:
    """Build Table 16: how suddenly and how late campaigns fall."""

    def measure(own: Sequence[Run]) -> Cells:
        chain, null = measured(own), null_chains(own)
        shape = chain.campaigns
        defined = (shape.phase_transition, shape.onset_step, shape.latency_steps)
        texts = [
            f"{estimate(of(chain), digits)[:-1]}, {(~np.isnan(values)).sum()} campaigns)"
            if (~np.isnan(values)).any()
            else estimate(of(chain), digits)
            for (of, digits, _), values in zip(_TABLE_16, defined, strict=True)
        ]
        cells: dict[str, Sequence[str]] = {metric_of(own): texts}
        if null is not None:
            cells[NULL] = [
                beside_null(own, null, of, digits, low_is_extreme=low)
                for of, digits, low in _TABLE_16
            ]
        return cells

    def scores(own: Sequence[Run]) -> Values:
        return {metric_of(own): phase_transition(measured(own))}

    return by_runs(16, runs, measure, scores, scale=1.0, notes=[NULL_NOTE])


def _column_11(own: Sequence[Run]) -> dict[str, dict[int, str]]:
    """Map reading -> row -> text; empty if nothing ran."""
    if not own:
        return {}
    chain, null = measured(own), null_chains(own)
    count = str(int((~np.isnan(chain.campaigns.end)).sum()))
    texts = {0: count}
    for i, m in enumerate(_TABLE_11, 1):
        texts[i] = estimate(m.of(chain), m.digits, m.scale, unit=m.unit)
    texts[len(_TABLE_11) + 1] = ", ".join(f"{end:.2f}" for end in chain.carry_over)
    column = {metric_of(own): texts}
    if null is not None:
        column[NULL] = {
            i: beside_null(own, null, m.of, m.digits, m.scale, m.low_is_extreme)
            for i, m in enumerate(_TABLE_11, 1)
        }
    found = Counter(str(one.finding) for run in own for one in judge_run(run).campaigns)
    verdicts = ", ".join(f"{finding} {count}" for finding, count in found.most_common())
    column[REPORT_PANEL] = _panel_column(own) | {len(_TABLE_11) + 2: verdicts}
    return column


def _panel_column(own: Sequence[Run]) -> dict[int, str]:
    peaks, ends = panel(own, "peak"), panel(own, "end")
    gaps = peaks - ends
    texts = {0: str(gaps.size)}
    for i, values in enumerate((peaks, ends, gaps), 1):
        texts[i] = estimate(values.mean(axis=1), 3)
    for i, level in enumerate(GAP_LEVELS, 4):
        texts[i] = estimate(exceeds(gaps, level).mean(axis=1), 0, 100.0, unit="%")
    texts[len(_TABLE_11) + 1] = ", ".join(f"{end:.2f}" for end in ends.mean(axis=0))
    return texts
