"""Run chains in parallel on this machine, each in its own process."""

import signal
import time
from collections.abc import Callable, Sequence

from launch.jobs import Job
from launch.process import ChainProcess
from selfreg.run import interrupt
from selfreg.run.standing import State, read_standing

_PAUSE_S = 0.5
_SHOW_S = 2.0  # showing reads all run folders again, so not too often
_GRACE_S = 120.0


def run_local(jobs: Sequence[Job], slots: int, show: Callable[[], None]) -> None:
    """Run chains until all have ended. Each starts once its needs are met and a slot is free.

    Finished chains are not started again. Chains whose source has failed are not started.

    Args:
      jobs: The chains, in the order in which they should start.
      slots: The number of chains that run at a time.
      show: Called every two seconds and at the end.

    Raises:
      KeyboardInterrupt: Ctrl-C was pressed. It is raised once all processes have ended.
    """
    waiting = [job for job in jobs if read_standing(job.folder).state is not State.FINISHED]
    running: list[ChainProcess] = []
    shown = -_SHOW_S
    # If Ctrl-C raised an exception while a process is being started, that process would go on
    # running without being tracked.
    interrupt.install(at_once=False)
    try:
        while waiting or running:
            interrupt.check()
            running = [chain for chain in running if chain.ended() is None]
            for job in list(waiting):
                if len(running) < slots and job.is_ready:
                    waiting.remove(job)
                    running.append(ChainProcess(job.arguments, job.folder))
            if not running and not any(job.is_ready for job in waiting):
                break
            if time.monotonic() >= shown + _SHOW_S:
                shown = time.monotonic()
                show()
            time.sleep(_PAUSE_S)
    except KeyboardInterrupt:
        _stop(running)
        raise
    finally:
        show()


def _stop(processes: Sequence[ChainProcess]) -> None:
    """Send SIGINT to all processes. Kill them after a grace period or a second Ctrl-C."""
    for chain in processes:
        chain.process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + _GRACE_S
    try:
        while time.monotonic() < deadline and any(c.process.poll() is None for c in processes):
            time.sleep(_PAUSE_S)
    except KeyboardInterrupt:
        pass
    for chain in processes:
        if chain.process.poll() is None:
            chain.process.kill()
        chain.wait()
