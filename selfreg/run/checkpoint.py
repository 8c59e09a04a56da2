"""Saves a campaign's checkpoints with Orbax: the start, the peak and the latest step.

A config may keep every nth step beside them.

A save copies the arrays to the host and returns, and a thread writes them. A folder gets its name
only when it is complete, so every checkpoint that has a name can be read, whenever a process dies.
A peak that is lost before it reaches the disk costs nothing: the run goes on from the latest
checkpoint and finds the same peak again, because it is deterministic.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as managers

from selfreg.run.checksums import checksums
from selfreg.run.records import Checkpoint
from selfreg.run.rundir import checkpoint_folder

PEAK, CHECKSUMS, RECORDS = "peak", "checksums", "records"


class DamagedError(ValueError):
    """A checkpoint cannot be read, or does not hold what was saved."""


def _peak_value(metrics: Mapping[str, float]) -> float:
    return metrics[PEAK]


class Checkpoints:
    """The checkpoints of one campaign."""

    def __init__(self, folder: Path, campaign: int, keep_every_steps: int = 0):
        """Open or make the folder of a campaign.

        Args:
          folder: The run's checkpoint folder.
          campaign: From 0.
          keep_every_steps: Also keep the steps that are multiples of this; 0 for none.
        """
        policies = managers.preservation_policy
        # Only peaks have a metric, and each is above the last one: the best is the latest peak.
        best = policies.BestN(
            get_metric_fn=_peak_value, n=1, keep_checkpoints_without_metrics=False
        )
        rules = [policies.CustomSteps([0]), policies.LatestN(1), best]
        if keep_every_steps:
            rules.append(policies.EveryNSteps(keep_every_steps))
        keep = policies.AnyPreservationPolicy(rules)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=keep,
            best_fn=_peak_value,  # without it no metric is saved: a resumed run would lose its peak
            cleanup_tmp_directories=True,
            enable_async_checkpointing=True,
        )
        self._folder = checkpoint_folder(folder, campaign)
        self._manager = ocp.CheckpointManager(self._folder, options=options)

    def save(
        self,
        step: int,
        trees: Mapping[str, Any],
        *,
        peak_value: float | None = None,
        rests_on: str = "",
    ) -> None:
        """Save the policy of `step`, unless it is already there.

        Args:
          step: The updates made in this campaign.
          trees: Named trees of arrays (weights, moments). They may be donated once this returns. A
            tree that is None is left out.
          peak_value: The metric, if this step is a new peak.
          rests_on: A digest of the records before this step, which `rests_on` returns again.
        """
        if step in self._manager.all_steps():
            return
        there = {name: tree for name, tree in trees.items() if tree is not None}
        items: dict[str, Any] = {n: ocp.args.StandardSave(tree) for n, tree in there.items()}
        sums: dict[str, Any] = {name: checksums(tree) for name, tree in there.items()}
        items[CHECKSUMS] = ocp.args.JsonSave(sums | {RECORDS: rests_on})
        metrics = None if peak_value is None else {PEAK: peak_value}
        self._manager.save(step, args=ocp.args.Composite(**items), metrics=metrics)

    def steps(self) -> list[int]:
        """Return the steps that are complete on disk, in order."""
        return sorted(self._manager.all_steps())

    def set_aside(self, step: int) -> Path:
        """Rename the folder of a damaged checkpoint, so that nothing reads it any more.

        Returns:
          The new path.
        """
        aside = self._folder / f"damaged_{step}_{time.time_ns()}"
        (self._folder / str(step)).rename(aside)
        self._manager.reload()
        return aside

    def rests_on(self, step: int) -> str:
        """Return the digest that `save` was given for a step; "" if an older version wrote it."""
        saved = _saved_checksums(self._folder / str(step))
        return saved.get(RECORDS, "") if saved else ""

    def wait(self) -> None:
        """Wait until everything is written."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait until everything is written, and close the manager."""
        self.wait()
        self._manager.close()


def restore(folder: Path, checkpoint: Checkpoint, like: Mapping[str, Any]) -> dict[str, Any]:
    """Read named trees of a checkpoint back onto the mesh.

    Args:
      folder: The run's checkpoint folder.
      checkpoint: The checkpoint to read.
      like: Arrays or shapes that give the structure, types and shardings of each tree.

    Raises:
      DamagedError: The checkpoint is missing, cannot be read, or does not have the checksums that
        were saved with it. The message says what to do.
    """
    place = checkpoint_folder(folder, checkpoint.campaign) / str(checkpoint.step)
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, dict(like))
    try:
        with ocp.StandardCheckpointer() as reader:
            trees = {
                name: None if tree is None else reader.restore(place / name, tree)
                for name, tree in abstract.items()
            }
        sums = _saved_checksums(place)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"cannot be read ({type(error).__name__}: {str(error)[:200]})"
        raise _damaged(place, what) from error
    for name, tree in trees.items():
        if sums is not None and tree is not None and checksums(tree) != sums.get(name):
            raise _damaged(place, f"is damaged: the checksums of its {name!r} are not those saved")
    return trees


def _saved_checksums(place: Path) -> dict[str, Any] | None:
    """Read the checksums of a checkpoint; None if an older version wrote it."""
    if not (place / CHECKSUMS).exists():
        return None
    with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
        return reader.restore(place / CHECKSUMS)


def _damaged(place: Path, what: str) -> DamagedError:
    return DamagedError(
        f"checkpoint {place} {what}. Remove that folder and those of later steps: a resumed run "
        "makes these steps again. If config.init_checkpoint names it, name another one"
    )
