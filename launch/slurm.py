"""Run chains as SLURM array jobs with submitit. Preempted or timed-out jobs are queued again."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.jobs import Job
from launch.process import ChainProcess
from selfreg.run.standing import LOG, State, read_standing

FOLDER = ".slurm"  # submitit's scripts and logs, in the folder of all runs
_DAY_MIN = 24 * 60


@dataclass(frozen=True, slots=True)
class Task:
    """The work of one node on one chain. submitit pickles it."""

    arguments: tuple[str, ...]
    folder: Path

    def __call__(self) -> int:
        """Run the chain to its end.

        Raises:
          RuntimeError: The chain failed, which marks the SLURM job as failed.
        """
        rank = int(os.environ.get("SLURM_PROCID", "0"))
        log = LOG if rank == 0 else f"chain.{rank}.log"
        # Without a session of its own, so that SLURM ends it when it takes the node.
        code = ChainProcess(self.arguments, self.folder, log, own_session=False).wait()
        if code:
            raise RuntimeError(f"exit code {code}: see {self.folder / log}")
        return code

    def checkpoint(self) -> Any:
        """Return what submitit queues when SLURM takes the node: the same task, which resumes."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def submit(
    jobs: Sequence[Job], runs: Path, options: Mapping[str, Any], slots: int, cluster: str = "slurm"
) -> list[Any]:
    """Queue every unfinished chain: one array of ready chains, and one of those that must wait.

    Args:
      jobs: The chains.
      runs: The folder of all runs, on a file system that all nodes share.
      options: Options of submitit's executor, such as slurm_partition, nodes or timeout_min.
      slots: The number of chains that run at a time.
      cluster: submitit's name of the cluster. "debug" and "local" need no SLURM.

    Returns:
      submitit's jobs.

    Raises:
      ImportError: submitit is not installed.
    """
    try:
        import submitit
    except ImportError as error:
        raise ImportError("SLURM needs submitit: pip install 'selfreg[slurm]'") from error
    left = [job for job in jobs if read_standing(job.folder).state is not State.FINISHED]
    rounds = [[job for job in left if job.is_ready], [job for job in left if not job.is_ready]]
    several = int(options.get("nodes", 1)) * int(options.get("tasks_per_node", 1)) > 1
    submitted: list[Any] = []
    for number, array in enumerate(rounds):
        if not array:
            continue
        executor = submitit.AutoExecutor(folder=runs / FOLDER, cluster=cluster)
        own: dict[str, Any] = {
            "name": "selfreg", "timeout_min": _DAY_MIN, "slurm_array_parallelism": slots, **options,
        }  # fmt: skip
        if number and submitted:
            # afterany starts them even if the first array failed. A chain whose source is missing
            # then reports that.
            before = submitted[0].job_id.partition("_")[0]
            own["slurm_additional_parameters"] = {"dependency": f"afterany:{before}"}
        executor.update_parameters(**own)
        submitted += executor.submit_array([_task(job, several) for job in array])
    return submitted


def _task(job: Job, several: bool) -> Task:
    arguments = (*job.arguments, "--coordinator=auto") if several else job.arguments
    return Task(arguments, job.folder)
