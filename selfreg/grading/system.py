"""What Python lacks: calls of the C library, and other processes' clocks and ends."""

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
