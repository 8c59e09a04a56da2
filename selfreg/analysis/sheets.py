"""Write every statistic of every campaign and chain as CSV, for a spreadsheet or pandas."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from selfreg.analysis.compare import Judged
from selfreg.analysis.load import Run, label_runs
from selfreg.analysis.nullmodel import null_test
from selfreg.analysis.paper.tables_runs import measured, metric_of, null_chains
from selfreg.run.rundir import flatten

CAMPAIGNS, CHAINS = "campaigns.csv", "chains.csv"
# Chain statistics that a stationary chain has too -> whether small values indicate a collapse.
_AGAINST_NULL = {
    "end": True,
    "collapses": False,
    "trace_oracle": False,
    "hindsight_oracle": False,
}
_STATISTICS = (*_AGAINST_NULL, "total_steps", "per_100_steps", "trace_oracle_steps")


def write_sheets(judged: Sequence[Judged], out: Path) -> None:
    """Write campaigns.csv and chains.csv; an undefined number is an empty cell.

    campaigns.csv has one row per finished campaign, with every field of its
    `verdict.CampaignVerdict` under its dotted name. chains.csv has one row per chain with a
    finished campaign: every field of its `verdict.ChainVerdict`, and the statistics of
    `chains.Chains` for the control's metric. If a stationary null exists, a statistic also has the
    null's mean, 95% range and one-sided p.

    Args:
      judged: The runs.
      out: An existing folder.
    """
    campaigns, chains = [], []
    labels = label_runs([one.run for one in judged])
    for label, (run, verdict) in zip(labels, judged, strict=True):
        names = {"condition": label, "seed": run.seed, "folder": str(run.folder)}
        adjusted = zip(verdict.campaigns, verdict.holm, strict=True)
        campaigns += [names | {"holm_p": p} | flatten(asdict(c)) for c, p in adjusted]
        if verdict.chain:
            done = {"finished": run.finished, "campaigns": len(verdict.campaigns)}
            chains.append(names | done | flatten(asdict(verdict.chain)) | _statistics(run))
    _write(out / CAMPAIGNS, campaigns)
    _write(out / CHAINS, chains)


def _statistics(run: Run) -> dict[str, Any]:
    """Return the statistics of the control's metric as metric.STATISTIC.FIELD.

    FIELD names a field of `nullmodel.NullTest`.
    """
    chain, null = measured([run]), null_chains([run])
    row: dict[str, Any] = {"metric.name": metric_of([run])}
    for name in _STATISTICS:
        observed = getattr(chain, name)[0]
        row[f"metric.{name}.observed"] = None if np.isnan(observed) else observed
        if null is not None and name in _AGAINST_NULL:
            test = null_test(observed, getattr(null, name), _AGAINST_NULL[name])
            row |= flatten(asdict(test), f"metric.{name}.")
    return row


def _write(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows under the union of their columns.

    A record that is None in one row is several dotted columns in another. Its undotted name is then
    left out.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = [name for name in names if not any(n.startswith(name + ".") for n in names)]
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
