"""Wrappers that Python lacks: the C library, other processes' CPU clocks, and hostile folders."""

import contextlib
import ctypes
import os
import signal
import traceback
from collections.abc import Iterator

libc = ctypes.CDLL(None, use_errno=True)

_LAST_WORDS_BYTES = 4096


def call(result: int, what: str) -> None:
    """Check the return value of a call of the C library.

    Raises:
      OSError: The call failed.
    """
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def cpu_clock(pid: int) -> int:
    """Return the id of a process's CPU-time clock, as clock_getcpuclockid computes it."""
    return ~pid << 3 | 2


def powers() -> int:
    """Return the calling process's effective capabilities as a bit mask."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1], 16) for line in file if line.startswith("CapEff:"))


def count_tasks(proc: int) -> int:
    """Count the processes and threads of the calling process's user.

    Args:
      proc: A descriptor of /proc.
    """
    count = 0
    listing = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=proc)
    names = os.listdir(listing)
    os.close(listing)
    for name in filter(str.isdigit, names):
        with contextlib.suppress(OSError):
            if os.stat(name, dir_fd=proc).st_uid == os.getuid():
                count += os.stat(f"{name}/task", dir_fd=proc).st_nlink - 2
    return count


def describe(status: int) -> str:
    """Describe the end of a process: an exit status, or minus a signal, which may have no name."""
    if status >= 0:
        return f"exit status {status}"
    known = {number.value: number.name for number in signal.Signals}
    return known.get(-status, f"signal {-status}")


def empty_folder(path: str) -> None:
    """Remove everything that a hostile program left in a folder.

    Raises:
      OSError: Something cannot be removed.
    """
    if not os.listdir(path):
        return
    # Command-line tools, because shutil.rmtree recurses and would fail on a thousand nested
    # folders. They are not started by the module subprocess, because every child would carry its
    # imports.
    script = "chmod -R u+rwx . ; find . -mindepth 1 -delete"
    command = ["/bin/sh", "-c", f'cd "$0" && {{ {script}; }} >/dev/null 2>&1', path]
    os.waitpid(os.posix_spawn(command[0], command, {"PATH": os.defpath}), 0)
    if left := os.listdir(path):
        raise OSError(f"cannot empty {path!r}: a program left {left[:3]} there")


def folder_mb(path: str) -> int:
    """Return the MiB that the files in a folder take, whatever a hostile program left there."""
    if not os.listdir(path):
        return 0
    # Command-line tools, as in `empty_folder`: the program chooses how deep its folders are.
    inside, outside = os.pipe()
    script = 'cd "$0" && { chmod -R u+rwx . ; du -sm . ; } 2>/dev/null'
    command = ["/bin/sh", "-c", script, path]
    streams = [(os.POSIX_SPAWN_DUP2, outside, 1), (os.POSIX_SPAWN_CLOSE, inside)]
    pid = os.posix_spawn(command[0], command, {"PATH": os.defpath}, file_actions=streams)
    os.close(outside)
    told = os.read(inside, 64)
    os.close(inside)
    os.waitpid(pid, 0)
    return int(told.split()[0]) if told else 0


@contextlib.contextmanager
def last_words(number: int) -> Iterator[None]:
    """Silence standard error inside the block, and write to it the exception that ends the block.

    The parent process reads this standard error only after the process has ended. Output of tests
    and programs would fill the pipe, and block the process forever.

    Args:
      number: A free file descriptor, which holds standard error meanwhile.
    """
    os.dup2(2, number, inheritable=False)
    null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(null, 2)
    os.close(null)
    try:
        yield
    except Exception:
        os.write(number, traceback.format_exc().encode(errors="replace")[-_LAST_WORDS_BYTES:])
        os._exit(1)
