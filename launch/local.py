"""Chains in parallel on this machine, each a process."""

import signal
import time
from collections.abc import Callable, Sequence

from launch.jobs import Job
from launch.process import ChainProcess
from selfreg.run import interrupt
from selfreg.run.standing import State, read_standing

_PAUSE_S = 0.5
_SHOW_S = 2.0  # run folders are read anew each time
_GRACE_S = 120.0


def run_local(jobs: Sequence[Job], slots: int, show: Callable[[], None]) -> None:
    """Run chains until all have ended, each as soon as what it needs is there and a slot is free.

    A chain that has finished is not started. One whose source can no longer come is left.

    Args:
      jobs: The chains, those first that should begin first.
      slots: How many run at a time.
      show: Called every two seconds, and at the end.

    Raises:
      KeyboardInterrupt: Ctrl-C, once all processes have ended.
    """
    waiting = [job for job in jobs if read_standing(job.folder).state is not State.FINISHED]
    running: list[ChainProcess] = []
    shown = -_SHOW_S
    # Raised while a process is started, Ctrl-C would leave it to go on, known to nobody.
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
    """Ask all to end, as Ctrl-C does; a second Ctrl-C, or no answer, kills."""
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
