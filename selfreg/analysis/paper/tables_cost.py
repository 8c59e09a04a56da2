"""Table 18: the cost of a chain."""

from collections.abc import Sequence

import numpy as np

from selfreg.analysis.load import Run
from selfreg.analysis.paper.tables_cells import (
    MEASURED,
    NOT_MEASURED,
    Cells,
    Table,
    by_runs,
    estimate,
)
from selfreg.analysis.paper.tables_runs import PaperRuns
from selfreg.run import rundir

_HOUR_S = 3600.0
_NOTES = (
    "Measured: the sum of time/step_s times the devices of the last start. It includes a first "
    "campaign shared with another chain, and excludes start-up and compilation between campaigns. "
    "A gate without a language model decides within a step's time and is not timed.",
)


def table_18(runs: PaperRuns) -> Table:
    """Build Table 18: updates, device-hours, wall-clock time, and language-model questions."""

    def measure(own: Sequence[Run]) -> Cells:
        wall_h = np.array([_step_s(run) for run in own]) / _HOUR_S
        answers = [[p.answer for p in rundir.read_plans(run.folder) if p.answer] for run in own]
        waits = [
            sum(answer.time_s for answer in asked) / len(run.summaries)
            for run, asked in zip(own, answers, strict=True)
        ]
        return {
            MEASURED: [
                estimate([run.updates for run in own], 0),
                _device_hours(own, wall_h),
                estimate(wall_h, 3, unit=" hr"),
                estimate([len(asked) for asked in answers], 1),
                estimate(waits, 2, unit=" s") if any(answers) else NOT_MEASURED,
            ]
        }

    return by_runs(18, runs, measure, notes=_NOTES)


def _step_s(run: Run) -> float:
    return sum(record.metrics.get("time/step_s", 0.0) for record in run.records)


def _device_hours(own: Sequence[Run], wall_h: np.ndarray) -> str:
    devices = [(run.manifest.get("starts") or [{}])[-1].get("devices", []) for run in own]
    if not all(devices):
        return NOT_MEASURED
    kinds = {"CPU" if "cpu" in str(d).lower() else "GPU" for one in devices for d in one}
    hours = wall_h * np.array([len(one) for one in devices])
    return estimate(hours, 3, unit=f" {'/'.join(sorted(kinds))}-hr")
