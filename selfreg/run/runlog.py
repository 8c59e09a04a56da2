"""Writes a run folder as the run goes on: lock, manifest, records, completions, TensorBoard."""

import fcntl
import hashlib
import json
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

import numpy as np

from selfreg.algorithms.parts.batch import Batch
from selfreg.run import rundir
from selfreg.run.config import completed
from selfreg.run.events import EventFile
from selfreg.run.integrity import check_records
from selfreg.run.records import Group, StepRecord, to_json
from selfreg.run.rundir import CampaignSummary, Planned

PACKAGES = (
    "selfreg",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "transformers",
    "numpy",
)


class RunLog:
    """The open run folder of one chain, which keeps everything that was written before."""

    def __init__(self, folder: Path, *, writes: bool = True):
        """Read a run folder. The process that writes must use `open_run` instead.

        Args:
          folder: The run folder.
          writes: Whether to write. All processes of a run but the first keep everything in memory.
        """
        self.folder = folder
        self._writes = writes
        self.records = rundir.read_records(folder)
        self.planned = {planned.campaign: planned for planned in rundir.read_plans(folder)}
        self.summaries = rundir.read_summaries(folder)
        check_records(folder, self.records, self.summaries)
        self._unjudged = rundir.read_unjudged(folder)
        self._board: EventFile | None = None
        self._unsafe: set[Path] = set()  # written, and perhaps not on the disk yet

    def begin_campaign(self, campaign: int, step: int) -> list[StepRecord]:
        """Return the campaign's records before this step, and forget all later records.

        The run makes the step again. It is deterministic, so the same records follow.
        """
        before = [r for r in self.records if (r.campaign, r.step) < (campaign, step)]
        if self._writes:
            if len(before) < len(self.records) or not (self.folder / rundir.METRICS).exists():
                rundir.keep_lines(self.folder / rundir.METRICS, before)
            self.close()
            self._board = EventFile(self.folder / rundir.TENSORBOARD, purge_step=len(before))
        self.records = before
        return [record for record in before if record.campaign == campaign]

    def rests_on(self, campaign: int, step: int) -> str:
        """Return a digest of all that a checkpoint of this step rests on, once it is on the disk.

        Plans, summaries, and the records and unjudged completions of earlier steps.
        """
        if self._writes:
            for place in [*self._unsafe, self.folder]:
                rundir.to_disk(place)
            self._unsafe.clear()
        before = campaign, step
        records = [r for r in self.records if (r.campaign, r.step) < before]
        unjudged = [u for u in self._unjudged if (u.campaign, u.step) < before]
        planned = [self.planned[number] for number in sorted(self.planned) if number <= campaign]
        rows = to_json([records, unjudged, planned, self.summaries[:campaign]])
        return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()

    def check_rests(self, campaign: int, step: int, digest: str) -> None:
        """Refuse to go on from a checkpoint whose records have changed since it was saved.

        Args:
          campaign: The checkpoint's.
          step: Ditto.
          digest: What `rests_on` returned when it was saved; "": nobody knows.

        Raises:
          ValueError: A record, a plan or a summary has changed, or a file of completions is gone.
        """
        for file in self._completions(campaign, step):
            if not file.is_file():
                raise ValueError(f"{file} is gone, of a recorded step. {rundir.RESTORE_FILE}")
        if digest and digest != self.rests_on(campaign, step):
            files = ", ".join((rundir.METRICS, rundir.PLANS, rundir.CAMPAIGNS, rundir.UNJUDGED))
            raise ValueError(
                f"{self.folder}: one of {files} has changed since the checkpoint of campaign "
                f"{campaign}, step {step} was saved. {rundir.RESTORE_FILE}"
            )

    def _completions(self, campaign: int, step: int) -> Iterator[Path]:
        """The completions' files that the records before a step tell of."""
        for record in self.records:
            if (record.campaign, record.step) < (campaign, step):
                streams = {"panel": "panel_pass_at_1", "train": "pass_rate"}
                for stream, metric in streams.items():
                    if metric in record.metrics:
                        place = record.campaign, record.step, stream
                        yield rundir.completions_file(self.folder, *place)

    def append(self, record: StepRecord) -> None:
        """Write one step's record."""
        if self._writes:
            self._line(rundir.METRICS, record)
        if self._board is not None:
            self._board.scalars(record.metrics, len(self.records))
        self.records.append(record)

    def completions(self, campaign: int, step: int, stream: str, groups: Sequence[Group]) -> None:
        """Write one step's completions of one stream."""
        known = self.set_aside(campaign, step, stream)
        for group in groups:
            for u in group.unjudged:
                if (group.problem.id, u.program) not in known:
                    what = (group.problem.id, u.rollout.text, u.program)
                    why = (u.grade.outcome.value, u.grade.detail)
                    self._set_aside(rundir.SetAside(campaign, step, stream, *what, *why))
        if self._writes:
            file = rundir.completions_file(self.folder, campaign, step, stream)
            rundir.write_completions(file, groups)
            self._unsafe |= {file, file.parent}

    def set_aside(self, campaign: int, step: int, stream: str) -> frozenset[tuple[str, str]]:
        """Return the problem ids and programs that one step has set aside.

        A step that is made again leaves these out too, whatever the grader would say now.
        """
        place = campaign, step, stream
        return frozenset(
            (u.problem_id, u.program)
            for u in self._unjudged
            if (u.campaign, u.step, u.stream) == place
        )

    def _set_aside(self, unjudged: rundir.SetAside) -> None:
        if self._writes:
            self._line(rundir.UNJUDGED, unjudged)
        self._unjudged.append(unjudged)

    def keep_plan(self, planned: Planned) -> None:
        """Write the plan of a campaign, before it begins."""
        if self._writes:
            self._line(rundir.PLANS, planned)
        self.planned[planned.campaign] = planned

    def finish_campaign(self, summary: CampaignSummary, memory: Mapping[str, Any]) -> None:
        """Write a finished campaign's summary. From here on the campaign is never run again.

        Args:
          summary: The summary.
          memory: The memory of the control between campaigns; empty if it has none.
        """
        if self._writes:
            if memory:  # written first: a run that dies in between writes it again
                rundir.write_json(self.folder / rundir.MEMORY, memory)
            self._line(rundir.CAMPAIGNS, summary)
            rundir.to_disk(self.folder / rundir.CAMPAIGNS)
        self.summaries.append(summary)

    def _line(self, name: str, value: Any) -> None:
        rundir.append_line(self.folder / name, value)
        self._unsafe.add(self.folder / name)

    def save_batch(self, batch: Batch) -> Path:
        """Write the batch whose update failed, for a person to look at."""
        file = self.folder / "failed_batch.npz"
        arrays: dict[str, Any] = {name: getattr(batch, name) for name in Batch.__slots__}
        if self._writes:
            np.savez(file, **arrays)
        return file

    def close(self) -> None:
        """Flush the TensorBoard file."""
        if self._board is not None:
            self._board.close()


@contextmanager
def open_run(folder: Path, config: Mapping[str, Any], facts: Mapping[str, Any]) -> Iterator[RunLog]:
    """Open a new run folder, or one to resume, for writing.

    Args:
      folder: The run folder; made if it does not exist.
      config: The resolved config, as JSON data.
      facts: Further facts for the manifest (devices, grader layers).

    Raises:
      ValueError: Another process is writing to it, or it holds a run of another config.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        _take(lock, folder)
        check_same_config(folder, config)
        if not (folder / rundir.CONFIG).exists():
            rundir.write_json(folder / rundir.CONFIG, config)
        # The manifest keeps every start of the run: each may be on another machine.
        file = folder / rundir.MANIFEST
        starts = json.loads(file.read_text())["starts"] if file.exists() else []
        rundir.write_json(file, {"starts": [*starts, {**_environment(), **facts}]})
        log = RunLog(folder)
        try:
            yield log
        finally:
            log.close()


def _take(lock: IO[str], folder: Path) -> None:
    # selfreg.status takes the lock for an instant, to see whether it is held.
    for last in (False, False, True):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if last:
                raise ValueError(f"--workdir={folder} is in use by another process") from None
            time.sleep(0.1)


def check_same_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse a run folder of another config.

    Args:
      folder: The run folder; it may have no config.json yet.
      config: The resolved config, as JSON data.

    Raises:
      ValueError: The configs differ; the message says where.
    """
    file = folder / rundir.CONFIG
    if not file.exists():
        return
    kept = rundir.flatten(json.loads(file.read_text()))
    old, new = completed(kept), rundir.flatten(json.loads(json.dumps(config)))
    # A key that there no longer is differs only if it was on.
    asked = new.keys() | {k for k, value in kept.items() if value or k in new}
    differing = sorted(k for k in asked if old.get(k) != new.get(k))
    if differing:
        shown = ", ".join(f"{k}: {old.get(k)!r} there, {new.get(k)!r} now" for k in differing[:5])
        raise ValueError(
            f"--workdir={folder} holds a run of another config ({shown}); name another folder"
        )


def is_finished(folder: Path, config: Mapping[str, Any]) -> bool:
    """Return whether a run folder holds all campaigns of a config.

    Raises:
      ValueError: It holds a run of another config.
    """
    check_same_config(folder, config)
    return len(rundir.read_summaries(folder)) == config["campaigns"]


def _environment() -> dict[str, Any]:
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
        "python": platform.python_version(),
        "machine": platform.platform(),
        "versions": {name: _version(name) for name in PACKAGES},
        "git": _git_state(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_state() -> dict[str, Any] | None:
    """Return the commit, and whether files differ from it; None outside a checkout."""
    where = Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(where), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None
