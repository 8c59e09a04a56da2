"""One child of the worker: forked, jailed, waited for, and all that it started reaped."""

import contextlib
import functools
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from selfreg.grading import sandbox
from selfreg.grading.sandbox import Jail, Limits

# In the worker its connection to the pool, in a child the pipe for its report.
CHANNEL_FD = 3
KEPT_FD = 4
_CONFINED = b"+"
_REPORT_BYTES = 65536

# A program may wait so much longer where the kernel does not count the time in which it wants a
# core and has none: it then counts as waiting, and the machine's load must not change a verdict.
_UNCOUNTED_FACTOR = 10.0


class JailError(Exception):
    """A child could not be jailed, or was killed from outside: not the program's doing."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a child ended.

    Attributes:
      status: Its exit status, or minus the signal that ended it.
      cpu_s: CPU seconds that it used.
      timed_out: Why it was stopped, or ran too long; empty when it did not.
      report: What it wrote to CHANNEL_FD, at most 64 KiB.
    """

    status: int
    cpu_s: float
    timed_out: str
    report: bytes

    @property
    def cause(self) -> str:
        """The way it ended, for a person."""
        return describe(self.status)


def run(
    action: Callable[[], None],
    jail: Jail,
    limits: Limits,
    *,
    stdin: int | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
    keep: int | None = None,
    session: bool = True,
) -> Ended:
    """Run `action` in a jailed child and wait until it and all its descendants are gone.

    Args:
      action: What the child does; it had better not return.
      jail: Put on before.
      limits: What it may use; at a time limit it is stopped.
      stdin: A file descriptor; None for /dev/null.
      stdout: Ditto.
      stderr: Ditto.
      keep: Another file descriptor that the child keeps, as number 4 and closed on exec.
      session: Whether the child leads a session of its own, out of the terminal's signals.

    Raises:
      JailError: The jail could not be put on, or an outsider killed the child.
      ConnectionResetError: The pool hung up meanwhile.
    """
    parent, (report_end, channel) = os.getpid(), os.pipe()
    pid = os.fork()
    if pid == 0:
        _enter(action, jail, limits, (stdin, stdout, stderr, channel, keep), parent, session)
    os.close(channel)
    try:
        status, cpu_s, timed_out = _wait(pid, limits)
        os.set_blocking(report_end, False)
        report = b""
        with contextlib.suppress(BlockingIOError):
            report = os.read(report_end, _REPORT_BYTES)
    finally:
        os.close(report_end)
    if not report.startswith(_CONFINED):
        raise JailError(f"the child could not be jailed: {report.decode(errors='replace')}")
    if status == -signal.SIGKILL and not timed_out:
        raise JailError("something killed the program: is the machine short of memory?")
    return Ended(status, cpu_s, timed_out, report[len(_CONFINED) :])


def _enter(
    action: Callable[[], None],
    jail: Jail,
    limits: Limits,
    files: tuple[int | None, int | None, int | None, int, int | None],
    parent: int,
    session: bool,
) -> None:
    leave = os._exit
    try:
        if session:
            os.setsid()
        *standard, channel, keep = files
        null = os.open(os.devnull, os.O_RDWR)
        for number, file in enumerate(standard):
            os.dup2(null if file is None else file, number)
        # The worker keeps numbers 0 to 3 taken, so that none of these is overwritten unread.
        os.dup2(channel, CHANNEL_FD)
        try:
            sandbox.confine(jail, limits, parent)
        except OSError as error:
            os.write(CHANNEL_FD, str(error).encode())
            leave(1)
        if keep is not None and keep != KEPT_FD:
            os.dup2(keep, KEPT_FD, inheritable=False)
        # All that the worker can have: few enough also where there is no close_range.
        os.closerange(KEPT_FD if keep is None else KEPT_FD + 1, sandbox.OPEN_FILES)
        # Written before anything hostile runs, and it cannot be unwritten: what comes behind it
        # is the program's own, and never taken for trouble of the grader.
        os.write(CHANNEL_FD, _CONFINED)
        action()
    finally:
        leave(1)


def _wait(pid: int, limits: Limits) -> tuple[int, float, str]:
    """Wait for a child, and stop it at its limits: (status, CPU seconds, why it timed out)."""
    process = os.pidfd_open(pid)
    timed_out = ""
    try:
        timed_out = _watch(process, pid, limits)
    finally:
        os.close(process)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        _, status, usage = os.wait4(pid, 0)
        _reap_descendants()
    cpu_s = usage.ru_utime + usage.ru_stime
    status = os.waitstatus_to_exitcode(status)
    if not timed_out and (cpu_s > limits.cpu_s or status == -signal.SIGXCPU):
        timed_out = f"used {cpu_s:.1f} CPU seconds of {limits.cpu_s:.1f}"
    return status, cpu_s, timed_out


def _watch(process: int, pid: int, limits: Limits) -> str:
    """Return when the child ends (empty) or reaches a limit (which)."""
    wait_limit_s = limits.wait_s * (1.0 if _kernel_counts() else _UNCOUNTED_FACTOR)
    started = time.monotonic()
    events = select.poll()
    events.register(process, select.POLLIN)
    events.register(CHANNEL_FD, 0)  # only its hang-up: the next job may lie there already
    cpu_s = waited_s = 0.0
    while True:
        left_s = min(limits.cpu_s - cpu_s, wait_limit_s - waited_s)
        ready = dict(events.poll(1000 * left_s + 1))
        if process in ready:
            return ""
        if ready:
            raise ConnectionResetError("the pool hung up")
        with contextlib.suppress(OSError):  # it ended just now
            cpu_s = time.clock_gettime(_cpu_clock(pid))
            waited_s = time.monotonic() - started - cpu_s - _starved_s(pid)
        if cpu_s >= limits.cpu_s:
            return f"used its {limits.cpu_s:.1f} CPU seconds"
        if waited_s >= wait_limit_s:
            return f"waited for {waited_s:.1f} s"


def _cpu_clock(pid: int) -> int:
    """The clock of a process's CPU time, as clock_getcpuclockid makes it."""
    return ~pid << 3 | 2


def _starved_s(pid: int) -> float:
    """Seconds in which the threads of a process wanted a core and had none."""
    folder = f"/proc/{pid}/task"
    return sum(_schedule(f"{folder}/{thread}")[1] for thread in os.listdir(folder)) / 1e9


@functools.cache
def _kernel_counts() -> bool:
    return _schedule("/proc/self")[0] > 0  # by now the worker has run for a while


def _schedule(folder: str) -> tuple[int, int]:
    """Nanoseconds for which a thread ran, and for which it wanted to; 0 where nobody counts."""
    try:
        with open(f"{folder}/schedstat") as file:
            running, ready, _ = map(int, file.read().split())
    except (OSError, ValueError):
        return 0, 0
    return running, ready


def _reap_descendants() -> None:
    """End what a dead child started and left to the worker, which adopts orphans."""
    while True:
        try:
            found, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if found:
            continue
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            for orphan in file.read().split():
                os.kill(int(orphan), signal.SIGKILL)
        os.waitpid(-1, 0)


def describe(status: int) -> str:
    """A process's end in words: its exit status, or minus a signal, which may have no name."""
    if status >= 0:
        return f"exit status {status}"
    known = {number.value: number.name for number in signal.Signals}
    return known.get(-status, f"signal {-status}")


@contextlib.contextmanager
def memory_file(data: bytes = b"") -> Iterator[int]:
    """A file without a path: its descriptor, at its start."""
    file = os.memfd_create("selfreg", os.MFD_CLOEXEC)
    try:
        with open(file, "wb", closefd=False) as writer:
            writer.write(data)
        os.lseek(file, 0, os.SEEK_SET)
        yield file
    finally:
        os.close(file)


def contents(file: int) -> bytes:
    """All of a file, wherever its offset is."""
    return os.pread(file, os.fstat(file).st_size, 0)
