"""Read a run folder. Other modules judge its contents."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from selfreg.run import rundir
from selfreg.run.integrity import check_records
from selfreg.run.records import Checkpoint, StepRecord, Trace
from selfreg.run.rundir import CampaignSummary

_NEEDED = ("name", "seed", "condition", "control_metric", "campaigns", "rollout")


@dataclass(frozen=True, slots=True)
class Run:
    """One stored chain, finished or not.

    Attributes:
      folder: The run folder.
      config: The resolved config.
      manifest: Versions, devices and git state, one entry per start; empty without a manifest.
      records: All steps, in order.
      traces: The records by campaign, including an unfinished one.
      summaries: The finished campaigns.
    """

    folder: Path
    config: Mapping[str, Any]
    manifest: Mapping[str, Any]
    records: tuple[StepRecord, ...]
    traces: tuple[Trace, ...]
    summaries: tuple[CampaignSummary, ...]

    @property
    def condition(self) -> str:
        """The condition, which names how campaigns were controlled."""
        return str(self.config["condition"])

    @property
    def seed(self) -> int:
        """The chain's seed."""
        return int(self.config["seed"])

    @property
    def finished(self) -> bool:
        """Whether every campaign has ended."""
        return len(self.summaries) == self.config["campaigns"]

    @property
    def updates(self) -> int:
        """Optimizer updates made so far, including those that were rolled back."""
        return sum("loss" in record.metrics for record in self.records)


def find_runs(folder: Path) -> list[Path]:
    """Find the run folders at or below a folder, sorted by path.

    Raises:
      ValueError: The folder does not exist, or holds no run.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder")
    found = sorted(
        file.parent
        for file in folder.rglob(rundir.METRICS)
        if (file.parent / rundir.CONFIG).exists()
    )
    if not found:
        raise ValueError(
            f"no run in {folder}: a run folder holds {rundir.CONFIG} and {rundir.METRICS}"
        )
    return found


def load_run(folder: Path) -> Run:
    """Read one run folder, except its completions.

    Raises:
      ValueError: It is not a run folder, holds no step, or has a file that cannot be read.
    """
    for name in (rundir.CONFIG, rundir.METRICS):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} is not a run folder: it has no {name}")
    config = _read_json(folder / rundir.CONFIG)
    manifest = folder / rundir.MANIFEST
    try:
        records = rundir.read_records(folder)
        summaries = rundir.read_summaries(folder)
        if not records:
            raise ValueError(f"{folder} holds no step yet")
        check_records(folder, records, summaries)
        for key in _NEEDED:
            config[key]
        traces = rundir.traces(records, config["control_metric"])
    except (TypeError, KeyError) as error:
        raise ValueError(f"{folder} was written by another version of selfreg: {error}") from None
    return Run(
        folder,
        config,
        _read_json(manifest) if manifest.exists() else {},
        tuple(records),
        tuple(traces),
        tuple(summaries),
    )


def label_runs(runs: Sequence[Run]) -> list[str]:
    """Label each run by its condition, preceded by config.name if the names differ."""
    if len({run.config["name"] for run in runs}) == 1:
        return [run.condition for run in runs]
    return [f"{run.config['name']}/{run.condition}" for run in runs]


def checkpoint_of_origin(run: Run, checkpoint: Checkpoint | None) -> Checkpoint | None:
    """Resolve a checkpoint to the one that first held its policy.

    Step 0 of a campaign is the policy that an earlier campaign handed on.

    Returns:
      A checkpoint with step > 0, or None for the chain's initial policy. Two checkpoints hold the
      same policy if and only if they resolve to the same checkpoint.
    """
    while checkpoint is not None and checkpoint.step == 0:
        checkpoint = run.summaries[checkpoint.campaign].plan.start
    return checkpoint


def group_size(run: Run, campaign: int) -> int:
    """Return the completions per training problem of a campaign, which its control may have set."""
    ordered = run.summaries[campaign].plan.group_size if campaign < len(run.summaries) else None
    return int(ordered or run.config["rollout"]["group_size"])


def passed_counts(run: Run, campaign: int) -> np.ndarray:
    """Count the passed completions of each training group of a campaign.

    Returns:
      int64 [groups], in training order; empty if the training completions were not kept.
    """
    counts: list[np.ndarray] = []
    for record in run.traces[campaign].records:
        file = rundir.completions_file(run.folder, campaign, record.step, "train")
        if file.exists():
            rows = pq.read_table(file, columns=["problem_id", "reward"])
            groups = rows.group_by("problem_id", use_threads=False)  # threads change the order
            counts.append(groups.aggregate([("reward", "sum")])["reward_sum"].to_numpy())
    return np.concatenate(counts).astype(np.int64) if counts else np.zeros(0, np.int64)


def panel_rates(run: Run, campaign: int) -> np.ndarray | None:
    """Read the pass rates of the control's panel in a campaign.

    Returns:
      float64 [K, N]: K readings of N problems, in order. None if the completions were not kept, the
      problems changed, or there are fewer than two readings or problems.
    """
    rates: list[dict[str, float]] = []
    for record in run.traces[campaign].records:
        file = rundir.completions_file(run.folder, campaign, record.step, "panel")
        if file.exists():
            rows = pq.read_table(file, columns=["problem_id", "reward"])
            means = rows.group_by("problem_id").aggregate([("reward", "mean")]).to_pydict()
            rates.append(dict(zip(means["problem_id"], means["reward_mean"], strict=True)))
    if len(rates) < 2 or len(rates[0]) < 2 or any(r.keys() != rates[0].keys() for r in rates):
        return None
    return np.array([[reading[name] for name in rates[0]] for reading in rates])


def report_completions(run: Run, checkpoint: Checkpoint | None) -> list[dict[str, Any]]:
    """Read the report panel's completions of the policy at a checkpoint.

    Args:
      run: The run.
      checkpoint: The checkpoint; None for the initial policy.

    Returns:
      One row per completion, without its arrays; empty if they were not kept.
    """
    named = checkpoint_of_origin(run, checkpoint) or Checkpoint(0, 0)
    file = rundir.completions_file(run.folder, named.campaign, named.step, "report")
    if not file.exists():
        return []
    wanted = {"problem_id", "sample", "spec", "text", "program", "outcome", "grade_detail"}
    columns = [name for name in pq.read_schema(file).names if name in wanted]
    return pq.read_table(file, columns=columns).to_pylist()


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is not JSON: {error}") from None
