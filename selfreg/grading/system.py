"""What Python lacks: the C library, other processes' clocks and ends, and emptying any folder."""

import ctypes
import os
import signal

libc = ctypes.CDLL(None, use_errno=True)


def call(result: int, what: str) -> None:
    """Check what a call of the C library returned.

    Raises:
      OSError: It failed.
    """
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def cpu_clock(pid: int) -> int:
    """The clock of a process's CPU time, as clock_getcpuclockid makes it."""
    return ~pid << 3 | 2


def describe(status: int) -> str:
    """A process's end in words: its exit status, or minus a signal, which may have no name."""
    if status >= 0:
        return f"exit status {status}"
    known = {number.value: number.name for number in signal.Signals}
    return known.get(-status, f"signal {-status}")


def empty_folder(path: str) -> None:
    """Remove all that a hostile program left in a folder.

    Raises:
      OSError: Something cannot be removed.
    """
    if not os.listdir(path):
        return
    # Tools and not shutil.rmtree, which recurses: a thousand nested folders would end it. Spawned
    # without the module subprocess, whose imports every child would carry.
    script = "chmod -R u+rwx . ; find . -mindepth 1 -delete"
    command = ["/bin/sh", "-c", f'cd "$0" && {{ {script}; }} >/dev/null 2>&1', path]
    os.waitpid(os.posix_spawn(command[0], command, {"PATH": os.defpath}), 0)
    if left := os.listdir(path):
        raise OSError(f"cannot empty {path!r}: a program left {left[:3]} there")
