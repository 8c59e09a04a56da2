"""What a table is made of: rows of text, the paper's and ours, and differences paired by seed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from selfreg.analysis.chains import Chains
from selfreg.analysis.load import Run
from selfreg.analysis.nullmodel import null_test
from selfreg.analysis.paper import published
from selfreg.analysis.paper.published import PrintedComparison, PrintedRow, PrintedTable
from selfreg.analysis.paper.tables_runs import (
    REPORT_PANEL,
    PaperRuns,
    Statistic,
    ends,
    mean,
    measured,
    metric_of,
    panel_scores,
)
from selfreg.analysis.stats import bootstrap_interval, holm, sign_flip_p
from selfreg.run.records import PanelScore

PAPER, MEASURED, NULL = "paper", "measured", "stationary null"
NOT_RUN, NOT_MEASURED, UNDEFINED = "not run", "not measured", "undefined"
NULL_NOTE = (
    "Stationary null: chains of the same lengths whose policies never change, with the pass rates "
    "of their own problems; mean, 95% range, and one-sided p of what was measured."
)

# Reading -> the text of each column, and reading -> one value a chain.
Cells = Mapping[str, Sequence[str]]
Values = Mapping[str, np.ndarray]


class Row(NamedTuple):
    """One line of a table.

    Attributes:
      labels: What names the row; the paper's line and ours below it have the same.
      reading: Whose numbers these are: "paper", a metric of ours, or "stationary null".
      cells: One text a column.
    """

    labels: tuple[str, ...]
    reading: str
    cells: tuple[str, ...]


class Comparison(NamedTuple):
    """A difference paired by seed, as text.

    Attributes:
      name: What is subtracted from what.
      reading: Of which numbers.
      difference: Mean, 95% interval over seeds, and n.
      p: Sign-flip p, two-sided; "" where there are fewer than two seeds.
      holm: The same, adjusted for the table's comparisons of that reading.
      paper: What the paper prints; "" for nothing.
    """

    name: str
    reading: str
    difference: str
    p: str
    holm: str
    paper: str


@dataclass(frozen=True, slots=True)
class Table:
    """One of the paper's tables with our numbers below the paper's.

    Attributes:
      number: In the paper.
      title: What it shows.
      labels: Names of the columns that name a row.
      columns: Names of the others.
      rows: In order: the paper's line, then ours.
      comparisons: Differences between its rows.
      notes: What to know when reading it.
    """

    number: int
    title: str
    labels: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    comparisons: tuple[Comparison, ...]
    notes: tuple[str, ...]


def estimate(
    values: Sequence[float] | np.ndarray,
    digits: int,
    scale: float = 1.0,
    sign: str = "",
    unit: str = "",
) -> str:
    """Mean, 95% bootstrap interval over chains, and n: "4.9 [2.1, 9.5] (n=5)".

    Args:
      values: One a chain; NaN where it is not defined, which is left out of n.
      digits: After the decimal point.
      scale: 100 for percent.
      sign: "+" to write one.
      unit: Written after the mean.
    """
    known = scale * np.asarray(values, np.float64)
    known = known[~np.isnan(known)]
    if not len(known):
        return UNDEFINED
    form = f"{sign}.{digits}f"
    text = format(known.mean(), form) + unit
    if len(known) > 1:
        low, high = bootstrap_interval(known)
        text += f" [{low:{form}}, {high:{form}}]"
    return f"{text} (n={len(known)})"


def panel_estimate(scores: Sequence[PanelScore], digits: int, scale: float = 1.0) -> str:
    """The same of panel scores; a single one has its standard error over problems: "4.9 ± 1.2"."""
    if len(scores) == 1:
        (score,) = scores
        numbers = (score.pass_at_1, score.standard_error)
        return " ± ".join(f"{scale * number:.{digits}f}" for number in numbers)
    return estimate([score.pass_at_1 for score in scores], digits, scale)


def percent(values: Sequence[float] | np.ndarray) -> str:
    """`estimate` of rates, in percent."""
    return estimate(values, 1, 100.0)


def end_estimates(runs: Sequence[Run], digits: int = 1) -> dict[str, str]:
    """End-of-chain pass@1 in percent, by the controls' metric and by the report panel."""
    return {
        metric_of(runs): estimate(measured(runs).end, digits, 100.0),
        REPORT_PANEL: panel_estimate(panel_scores(runs, "end"), digits, 100.0),
    }


def beside_null(
    runs: Sequence[Run],
    null: Chains,
    statistic: Statistic,
    digits: int,
    scale: float = 1.0,
    low_is_extreme: bool = False,
) -> str:
    """What stationary chains show of a statistic: "0.16 [0.14, 0.19] p=0.2".

    Mean and 95% range of its mean over chains, and the one-sided p of the measured one,
    (1 + draws at least as extreme) / (1 + draws).

    Args:
      runs: The chains.
      null: Their stationary counterparts.
      statistic: One value a chain.
      digits: After the decimal point.
      scale: 100 for percent.
      low_is_extreme: Whether small values, not large ones, speak of a collapse.
    """
    observed = mean(statistic(measured(runs)))
    drawn = mean(statistic(null).reshape(-1, len(runs)))
    drawn = drawn[~np.isnan(drawn)]
    if np.isnan(observed) or not len(drawn):
        return UNDEFINED
    test = null_test(float(observed), drawn, low_is_extreme)
    numbers = (test.null_mean, test.null_low, test.null_high)
    middle, low, high = (f"{scale * v:.{digits}f}" for v in numbers)
    return f"{middle} [{low}, {high}] p={test.p:.2g}"


def block(row: PrintedRow, cells: Cells | None) -> list[Row]:
    """A printed row and ours below it; None: nothing ran."""
    ours = cells or {MEASURED: [NOT_RUN] * len(row.cells)}
    return [
        Row(row.labels, PAPER, row.cells),
        *(Row(row.labels, reading, tuple(texts)) for reading, texts in ours.items()),
    ]


def by_runs(
    number: int,
    runs: PaperRuns,
    measure: Callable[[Sequence[Run]], Cells],
    compared: Callable[[Sequence[Run]], Values] = ends,
    scale: float = 100.0,
    digits: int = 2,
    notes: Sequence[str] = (),
) -> Table:
    """A table each of whose rows is a condition.

    Args:
      number: Of the table.
      runs: The chains.
      measure: Makes a row's texts of its chains.
      compared: Makes the values that the comparisons subtract.
      scale: Of those values; 100 for percent.
      digits: Of the differences.
      notes: More of them.
    """
    printed = published.tables()[number]
    rows = []
    for row in printed.rows:
        own = runs.of(row.runs)
        rows += block(row, measure(own) if own else None)
    return finish(printed, runs, rows, compared, scale, digits, notes)


def finish(
    printed: PrintedTable,
    runs: PaperRuns,
    rows: Sequence[Row],
    compared: Callable[[Sequence[Run]], Values] = ends,
    scale: float = 100.0,
    digits: int = 2,
    notes: Sequence[str] = (),
) -> Table:
    """A table of these rows, with its comparisons and notes."""
    return Table(
        printed.number,
        printed.title,
        printed.labels,
        printed.columns,
        tuple(rows),
        tuple(compare(printed.comparisons, runs, compared, scale, digits)),
        (*_about(printed, runs), *notes, *printed.notes),
    )


def compare(
    comparisons: Sequence[PrintedComparison],
    runs: PaperRuns,
    compared: Callable[[Sequence[Run]], Values],
    scale: float,
    digits: int,
) -> list[Comparison]:
    """Every difference on the seeds that both conditions finished, Holm-adjusted by reading."""
    found: list[Comparison] = []
    tested: dict[str, list[tuple[int, float]]] = {}
    for wanted in comparisons:
        after, before = runs.both(wanted.after, wanted.before)
        if not after:
            found.append(Comparison(wanted.name, MEASURED, NOT_RUN, "", "", wanted.printed))
            continue
        ours, theirs = compared(after), compared(before)
        for reading in (name for name in ours if name in theirs):
            differences = scale * (ours[reading] - theirs[reading])
            differences = differences[~np.isnan(differences)]
            text, p = estimate(differences, digits, sign="+"), ""
            if len(differences) > 1:
                value = sign_flip_p(differences)
                tested.setdefault(reading, []).append((len(found), value))
                p = f"{value:.3g}"
            found.append(Comparison(wanted.name, reading, text, p, "", wanted.printed))
    for cases in tested.values():
        adjusted = holm([p for _, p in cases])
        for (index, _), value in zip(cases, adjusted, strict=True):
            found[index] = found[index]._replace(holm=f"{value:.3g}")
    return found


def _about(printed: PrintedTable, runs: PaperRuns) -> list[str]:
    """What was measured, on which models, by which report panels."""
    ran = [run for source in printed.sources for run in runs.of(source)]
    if not ran:
        return []
    sizes = sorted({(len(s.problem_ids), s.samples) for s in panel_scores(ran, "end")})
    panels = f"Report panel: {' or '.join(f'{n} problems x {k} samples' for n, k in sizes)}."
    if runs.tiny:
        return [
            "Measured on the waves' tiny variant: the embedded policy, procedural problems and few "
            "steps, not the paper's models. It shows that the wave runs, not what the paper says.",
            panels,
        ]
    models = sorted({str(run.config.get("model", {}).get("path", "unknown")) for run in ran})
    return [f"Measured on {', '.join(models)}.", panels]
