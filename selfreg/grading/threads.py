"""Read the state of a process's threads from /proc."""

import contextlib
import functools
import os
from typing import Any, NamedTuple

# /proc as the judge sees it at its start. It may be out of sight later.
HOST_PROC = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def open_in_proc(path: str) -> Any:
    """Open a file of /proc."""
    return open(path, opener=functools.partial(os.open, dir_fd=HOST_PROC))


class Thread(NamedTuple):
    """A thread of a child.

    Attributes:
      waits: Whether the thread neither runs, nor wants a core, nor waits for the disk.
      queued_s: Seconds in which the thread wanted a core and had none.
    """

    waits: bool
    queued_s: float


def threads_of(pid: int) -> dict[str, Thread]:
    """Return the threads of a process, by thread id."""
    folder = os.open(f"{pid}/task", os.O_RDONLY | os.O_DIRECTORY, dir_fd=HOST_PROC)
    try:
        numbers = os.listdir(folder)
    finally:
        os.close(folder)
    return {number: _thread(f"{pid}/task/{number}") for number in numbers}


def _thread(folder: str) -> Thread:
    """Return the state of a thread. A thread that has ended counts as waiting."""
    try:
        with open_in_proc(f"{folder}/stat") as file:
            # Skip the thread's name, which the program chooses, up to its last parenthesis.
            state = file.read().rpartition(")")[2].split()[0]
    except OSError:
        return Thread(True, 0.0)
    queued_s = 0.0
    with (
        contextlib.suppress(OSError),
        open_in_proc(f"{folder}/schedstat") as file,
    ):  # not every kernel counts this
        queued_s = int(file.read().split()[1]) / 1e9
    return Thread(state not in "RD", queued_s)
