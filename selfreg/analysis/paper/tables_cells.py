"""The building blocks of a table: the paper's rows, our rows, and differences paired by seed."""

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
    "Stationary null: chains of the same lengths whose policies never change and have the pass "
    "rates of the measured groups. Shown are the mean, the 95% range, and the one-sided p of the "
    "measured value."
)

# Cells maps a reading to the text of each column; Values maps a reading to one value per chain.
Cells = Mapping[str, Sequence[str]]
Values = Mapping[str, np.ndarray]


class Row(NamedTuple):
    """One line of a table.

    Attributes:
      labels: The cells that name the row; the paper's line and ours below it share them.
      reading: Source of the numbers: "paper", one of our metrics, or "stationary null".
      cells: One text per column.
    """

    labels: tuple[str, ...]
    reading: str
    cells: tuple[str, ...]


class Comparison(NamedTuple):
    """A difference paired by seed, as text.

    Attributes:
      name: The two conditions, as "after - before".
      reading: Source of the numbers.
      difference: Mean, 95% interval over seeds, and n.
      p: Two-sided sign-flip p; "" with fewer than two seeds.
      holm: p adjusted for all comparisons of this reading in the table.
      paper: The paper's printed value; "" if it has none.
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
      number: Number of the table in the paper.
      title: Title of the table.
      labels: Headers of the leading columns, which name a row.
      columns: Headers of the other columns.
      rows: The rows: each line of the paper, followed by ours.
      comparisons: Differences between rows.
      notes: Notes for the reader.
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
    """Format mean, 95% bootstrap interval over chains, and n: "4.9 [2.1, 9.5] (n=5)".

    Args:
      values: One value per chain; NaN if undefined, which n does not count.
      digits: Digits after the decimal point.
      scale: Factor of the values: 100 for percent.
      sign: "+" to print the sign of positive values.
      unit: Unit printed after the mean.
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
    """Format panel scores like `estimate`; a single score as "4.9 ± 1.2", one standard error."""
    if len(scores) == 1:
        (score,) = scores
        numbers = (score.pass_at_1, score.standard_error)
        return " ± ".join(f"{scale * number:.{digits}f}" for number in numbers)
    return estimate([score.pass_at_1 for score in scores], digits, scale)


def percent(values: Sequence[float] | np.ndarray) -> str:
    """Format rates like `estimate`, in percent."""
    return estimate(values, 1, 100.0)


def end_estimates(runs: Sequence[Run], digits: int = 1) -> dict[str, str]:
    """Format end-of-chain pass@1 in percent, by the control's metric and by the report panel."""
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
    """Format a statistic of stationary chains: "0.16 [0.14, 0.19] p=0.2".

    These are the mean and the 95% range of the statistic's mean over chains, and the one-sided p of
    the measured mean, (1 + draws at least as extreme) / (1 + draws).

    Args:
      runs: The measured chains.
      null: The stationary chains.
      statistic: Returns one value per chain.
      digits: Digits after the decimal point.
      scale: Factor of the values: 100 for percent.
      low_is_extreme: Whether small values, rather than large ones, indicate a collapse.
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
    """Return a printed row with our rows below it; cells=None means that nothing ran."""
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
    """Build a table in which each row is a condition.

    Args:
      number: Number of the table.
      runs: The chains.
      measure: Returns the texts of a row from its chains.
      compared: Returns the values that the comparisons subtract.
      scale: Factor of these values: 100 for percent.
      digits: Digits of the differences after the decimal point.
      notes: Notes to add to the printed ones.
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
    """Build a table from its rows, and add the comparisons and notes."""
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
    """Compute the differences on the seeds that both conditions finished, Holm-adjusted by reading.

    Args:
      comparisons: The differences that the paper's table asks for.
      runs: The chains.
      compared: Returns the values to subtract, by reading.
      scale: Factor of these values: 100 for percent.
      digits: Digits after the decimal point.
    """
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
    """Describe the models and the report panels behind the measured values."""
    ran = [run for source in printed.sources for run in runs.of(source)]
    if not ran:
        return []
    sizes = sorted({(len(s.problem_ids), s.samples) for s in panel_scores(ran, "end")})
    panels = f"Report panel: {' or '.join(f'{n} problems x {k} samples' for n, k in sizes)}."
    if runs.tiny:
        return [
            "Measured on the waves' tiny variant: the embedded policy, procedural problems and few "
            "steps, not the paper's models. It shows that the wave runs. It does not test the "
            "paper's claims.",
            panels,
        ]
    models = sorted({str(run.config.get("model", {}).get("path", "unknown")) for run in ran})
    return [f"Measured on {', '.join(models)}.", panels]
