"""What a run writes as it goes: the lock, the manifest, records, completions and TensorBoard."""

import fcntl
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
from tensorboardX import SummaryWriter

from selfreg import rundir
from selfreg.config import completed
from selfreg.records import Batch, Group, StepRecord
from selfreg.rundir import CampaignSummary, Planned

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
    """The open run folder of one chain. What was written before it was opened is kept."""

    def __init__(self, folder: Path, *, writes: bool = True):
        """Read what is there; `open_run` is the way in for the one process that writes.

        Args:
          folder: The run folder.
          writes: False: keep everything in memory alone, as the other processes of a run do.
        """
        self.folder = folder
        self._writes = writes
        self.records = rundir.read_records(folder)
        self.planned = {planned.campaign: planned for planned in rundir.read_plans(folder)}
        self.summaries = rundir.read_summaries(folder)
        self._unjudged = rundir.read_unjudged(folder)
        self._board: SummaryWriter | None = None

    def begin_campaign(self, campaign: int, step: int) -> list[StepRecord]:
        """Go on at this step: forget the records at or after it, and return this campaign's others.

        The step is made again, and being deterministic gives the same records again.
        """
        before = [r for r in self.records if (r.campaign, r.step) < (campaign, step)]
        if self._writes:
            if len(before) < len(self.records) or not (self.folder / rundir.METRICS).exists():
                rundir.keep_lines(self.folder / rundir.METRICS, before)
            self.close()
            board = str(self.folder / rundir.TENSORBOARD)
            self._board = SummaryWriter(board, purge_step=len(before))
        self.records = before
        return [record for record in before if record.campaign == campaign]

    def append(self, record: StepRecord) -> None:
        """Keep one step's record."""
        if self._writes:
            rundir.append_line(self.folder / rundir.METRICS, record)
        if self._board is not None:
            for name, value in record.metrics.items():
                self._board.add_scalar(name, value, len(self.records))
        self.records.append(record)

    def completions(self, campaign: int, step: int, stream: str, groups: Sequence[Group]) -> None:
        """Keep one step's completions of one stream."""
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

    def set_aside(self, campaign: int, step: int, stream: str) -> frozenset[tuple[str, str]]:
        """What was set aside of one step's completions: problems' ids and programs.

        A step that is made again leaves out the same ones, whatever the grader says of them now.
        """
        place = campaign, step, stream
        return frozenset(
            (u.problem_id, u.program)
            for u in self._unjudged
            if (u.campaign, u.step, u.stream) == place
        )

    def _set_aside(self, unjudged: rundir.SetAside) -> None:
        if self._writes:
            rundir.append_line(self.folder / rundir.UNJUDGED, unjudged)
        self._unjudged.append(unjudged)

    def keep_plan(self, planned: Planned) -> None:
        """Keep what a campaign is ordered to do, before it begins."""
        if self._writes:
            rundir.append_line(self.folder / rundir.PLANS, planned)
        self.planned[planned.campaign] = planned

    def finish_campaign(self, summary: CampaignSummary, memory: Mapping[str, Any]) -> None:
        """Keep a finished campaign's summary: from here on it is never run again.

        Args:
          summary: What is kept.
          memory: What the control between campaigns remembers; empty: nothing.
        """
        if self._writes:
            if memory:  # first: a run that dies in between writes it again
                rundir.write_json(self.folder / rundir.MEMORY, memory)
            rundir.append_line(self.folder / rundir.CAMPAIGNS, summary)
        self.summaries.append(summary)

    def save_batch(self, batch: Batch) -> Path:
        """Keep the batch whose update failed, for a person to look at."""
        file = self.folder / "failed_batch.npz"
        arrays: dict[str, Any] = {name: getattr(batch, name) for name in Batch.__slots__}
        if self._writes:
            np.savez(file, **arrays)
        return file

    def close(self) -> None:
        """Flush."""
        if self._board is not None:
            self._board.close()


@contextmanager
def open_run(folder: Path, config: Mapping[str, Any], facts: Mapping[str, Any]) -> Iterator[RunLog]:
    """Open a run folder for writing, new or to be resumed.

    Args:
      folder: Made if it is not there.
      config: The resolved config, as JSON data.
      facts: What else the manifest should say (devices, grader layers).

    Raises:
      ValueError: Another process is writing to it, or it holds a run of another config.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        _take(lock, folder)
        check_same_config(folder, config)
        if not (folder / rundir.CONFIG).exists():
            rundir.write_json(folder / rundir.CONFIG, config)
        # A resumed run adds to the history: each start of it may be on another machine.
        file = folder / rundir.MANIFEST
        starts = json.loads(file.read_text())["starts"] if file.exists() else []
        rundir.write_json(file, {"starts": [*starts, {**_environment(), **facts}]})
        log = RunLog(folder)
        try:
            yield log
        finally:
            log.close()


def _take(lock: IO[str], folder: Path) -> None:
    # Who only looks whether it is held (selfreg.status) holds it for an instant.
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
      folder: Whose config.json is read, if there is one.
      config: The resolved config, as JSON data.

    Raises:
      ValueError: They differ; the message says where.
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
    """Whether a run folder holds all campaigns of a config.

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
    """Commit, and whether files differ from it; None outside a checkout."""
    where = Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(where), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None
