"""What the threads of a process do, as /proc tells it."""

import contextlib
import functools
import os
from typing import Any, NamedTuple

# As it is when the judge starts; later it may be out of sight.
HOST_PROC = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def open_in_proc(path: str) -> Any:
    """Open a file of /proc."""
    return open(path, opener=functools.partial(os.open, dir_fd=HOST_PROC))


class Thread(NamedTuple):
    """A thread of a child.

    Attributes:
      waits: Whether it neither runs, wants a core nor is at the disk.
      queued_s: Seconds in which it wanted a core and had none.
    """

    waits: bool
    queued_s: float


def threads_of(pid: int) -> dict[str, Thread]:
    """The threads of a process, by their numbers."""
    folder = os.open(f"{pid}/task", os.O_RDONLY | os.O_DIRECTORY, dir_fd=HOST_PROC)
    try:
        numbers = os.listdir(folder)
    finally:
        os.close(folder)
    return {number: _thread(f"{pid}/task/{number}") for number in numbers}


def _thread(folder: str) -> Thread:
    """A thread; one that is gone waits."""
    try:
        with open_in_proc(f"{folder}/stat") as file:
            # The name before it is the program's to choose.
            state = file.read().rpartition(")")[2].split()[0]
    except OSError:
        return Thread(True, 0.0)
    queued_s = 0.0
    with (
        contextlib.suppress(OSError),
        open_in_proc(f"{folder}/schedstat") as file,
    ):  # if the kernel counts
        queued_s = int(file.read().split()[1]) / 1e9
    return Thread(state not in "RD", queued_s)
