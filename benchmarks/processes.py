"""Processes from /proc: descendants, and the CPU time that a process tree has used."""

import ctypes
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

_T = TypeVar("_T")
_TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True, slots=True)
class Process:
    """One line of /proc/PID/stat.

    Attributes:
      pid: The process ID.
      name: The name of its executable, truncated to 15 characters.
      parent: Its parent's process ID.
      state: Its state, a letter. Z: it has ended but has not been reaped.
      cpu_s: CPU seconds of the process, of its reaped children, and of those that they reaped.
      depth: The number of generations below the root of the tree.
    """

    pid: int
    name: str
    parent: int
    state: str
    cpu_s: float
    depth: int = 0


class Cost(NamedTuple):
    """A cost in CPU seconds (user and system) and in wall-clock seconds."""

    cpu_s: float
    wall_s: float


def read_process(pid: int) -> Process | None:
    """Return the process with this ID, or None if it does not exist."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            head, _, rest = file.read().rpartition(")")
    except (FileNotFoundError, ProcessLookupError):
        return None
    name, fields = head.partition("(")[2], rest.split()
    cpu_s = sum(map(int, fields[11:15])) * _TICK_S
    return Process(pid, name, int(fields[1]), fields[0], cpu_s)


def descendants(root: int) -> list[Process]:
    """Return all descendants of `root`, the nearest first, without `root` itself."""
    found = (read_process(int(name)) for name in os.listdir("/proc") if name.isdecimal())
    children: dict[int, list[Process]] = {}
    for process in found:
        if process:
            children.setdefault(process.parent, []).append(process)
    tree: list[Process] = []
    generation = [root]
    depth = 0
    while generation:
        depth += 1
        born = [p for parent in generation for p in children.get(parent, ())]
        tree += [replace(process, depth=depth) for process in born]
        generation = [p.pid for p in born]
    return tree


def measure(action: Callable[[], _T]) -> tuple[_T, Cost]:
    """Run an action, and return its result and the cost over this process and its descendants.

    The time of processes that end is not lost, because their parents' counts include it. Call
    `adopt_orphans` first, so that orphans have a parent. Only parents that ignore SIGCHLD lose
    their children's time. `losers` finds them. The precision is one tick (10 ms) for each process
    that is still alive.
    """
    others_s, own_s, begun = _others_cpu_s(), time.process_time(), time.perf_counter()
    result = action()
    wall_s, own_s = time.perf_counter() - begun, time.process_time() - own_s
    return result, Cost(own_s + _others_cpu_s() - others_s, wall_s)


def _others_cpu_s() -> float:
    """Return the CPU seconds of all descendants of this process, dead or alive."""
    reap(descendants(os.getpid()))  # reaped processes count in microseconds instead of ticks
    reaped = resource.getrusage(resource.RUSAGE_CHILDREN)
    living_s = sum(process.cpu_s for process in descendants(os.getpid()))
    return reaped.ru_utime + reaped.ru_stime + living_s


def losers() -> list[int]:
    """Return descendants that ignore SIGCHLD. The kernel drops the CPU time of their children."""
    bit = 1 << (signal.SIGCHLD - 1)
    # Skip zombies. When the first process of a namespace ends, the kernel makes it ignore SIGCHLD,
    # but by then all time has been counted.
    living = [process.pid for process in descendants(os.getpid()) if process.state != "Z"]
    return [pid for pid in living if _ignored_signals(pid) & bit]


def _ignored_signals(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            lines = dict(line.partition(":")[::2] for line in file)
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(lines.get("SigIgn", "0"), 16)


def adopt_orphans() -> None:
    """Make this process, instead of init, adopt descendants whose parent ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def reap(processes: Iterable[Process]) -> None:
    """Reap the processes that have ended and are children of this process."""
    for process in processes:
        if process.state == "Z" and process.parent == os.getpid():
            os.waitpid(process.pid, os.WNOHANG)


def kill_descendant(process: Process, root: int) -> bool:
    """Kill a process if it still descends from `root`, but never another that reused its ID."""
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    try:
        # The handle always refers to the same process, so checking after opening it is safe.
        if process.pid not in {p.pid for p in descendants(root)}:
            return False
        signal.pidfd_send_signal(handle, signal.SIGKILL)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True


class LineServer:
    """A Python subprocess that exchanges lines of JSON with this process.

    Use it as a context manager. The exit closes the pipes and waits for the subprocess, or kills it
    after an error.
    """

    def __init__(self, arguments: list[str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            # The grading pool's workers have sessions too, and some kernels schedule by session.
            start_new_session=True,
        )
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._process.kill()
        self._process.__exit__(kind, error, trace)

    def send(self, value: object) -> None:
        """Send a value as a line of JSON."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(value) + "\n")
        self._process.stdin.flush()

    def receive(self) -> Any:
        """Wait for a line and return its value.

        Raises:
          EOFError: The process has ended.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise EOFError(f"{self._process.args!r:.200} ended")
        return json.loads(line)

    def is_ready(self, wait_s: float) -> bool:
        """Return whether an unread line, or the end of output, arrives within `wait_s` seconds."""
        assert self._process.stdout is not None
        return bool(select.select([self._process.stdout], [], [], wait_s)[0])
