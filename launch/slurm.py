"""Chains as SLURM array jobs, through submitit: queued again when preempted or out of time."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.jobs import Job
from launch.process import ChainProcess
from selfreg.run.standing import LOG, State, read_standing

FOLDER = ".slurm"  # below the folder of all runs: submitit's scripts and logs
_DAY_MIN = 24 * 60


@dataclass(frozen=True, slots=True)
class Task:
    """What a node runs of one chain; pickled by submitit."""

    arguments: tuple[str, ...]
    folder: Path

    def __call__(self) -> int:
        """Run the chain to its end.

        Raises:
          RuntimeError: It failed, for SLURM to know.
        """
        rank = int(os.environ.get("SLURM_PROCID", "0"))
        log = LOG if rank == 0 else f"chain.{rank}.log"
        # In this session, or SLURM would leave it behind when it takes the node.
        code = ChainProcess(self.arguments, self.folder, log, own_session=False).wait()
        if code:
            raise RuntimeError(f"exit code {code}: see {self.folder / log}")
        return code

    def checkpoint(self) -> Any:
        """What submitit queues instead when SLURM takes the node: the same, which resumes."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def submit(
    jobs: Sequence[Job], runs: Path, options: Mapping[str, Any], slots: int, cluster: str = "slurm"
) -> list[Any]:
    """Queue every chain that has not finished: one array, and a second one of those that wait.

    Args:
      jobs: The chains.
      runs: The folder of all runs, which all nodes see.
      options: Of submitit's executor, such as slurm_partition, nodes or timeout_min.
      slots: Chains that run at a time.
      cluster: submitit's name of where to run; "debug" and "local" need no SLURM.

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
            # Whether the chains before did well or not: one whose source is missing says so.
            before = submitted[0].job_id.partition("_")[0]
            own["slurm_additional_parameters"] = {"dependency": f"afterany:{before}"}
        executor.update_parameters(**own)
        submitted += executor.submit_array([_task(job, several) for job in array])
    return submitted


def _task(job: Job, several: bool) -> Task:
    arguments = (*job.arguments, "--coordinator=auto") if several else job.arguments
    return Task(arguments, job.folder)
