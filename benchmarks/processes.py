"""Processes as /proc shows them: who descends from whom, and the CPU time that a tree has used."""

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
      pid: Its number.
      name: Of the file that it runs, cut off after 15 characters.
      parent: That of its parent.
      state: A letter; Z for one that ended and is not yet reaped.
      cpu_s: CPU seconds of the process and of all its children that it reaped, theirs included.
      depth: Generations below the root of the tree that it was found in.
    """

    pid: int
    name: str
    parent: int
    state: str
    cpu_s: float
    depth: int = 0


class Cost(NamedTuple):
    """What something took: CPU seconds, user and system, and seconds on the clock."""

    cpu_s: float
    wall_s: float


def read_process(pid: int) -> Process | None:
    """The process with this number, or None where there is none."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            head, _, rest = file.read().rpartition(")")
    except (FileNotFoundError, ProcessLookupError):
        return None
    name, fields = head.partition("(")[2], rest.split()
    cpu_s = sum(map(int, fields[11:15])) * _TICK_S
    return Process(pid, name, int(fields[1]), fields[0], cpu_s)


def descendants(root: int) -> list[Process]:
    """All that descends from `root`, which is left out, nearest first."""
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
    """What an action returns, and what it took: this process and everything that descends from it.

    Nothing gets lost when a process ends: its parent's count takes over what it and its reaped
    children used, and `adopt_orphans` sees to those without a parent. The exception are parents
    that ignore SIGCHLD; `losers` finds them. Good to a tick (10 ms) for each process that lives on.
    """
    others_s, own_s, begun = _others_cpu_s(), time.process_time(), time.perf_counter()
    result = action()
    wall_s, own_s = time.perf_counter() - begun, time.process_time() - own_s
    return result, Cost(own_s + _others_cpu_s() - others_s, wall_s)


def _others_cpu_s() -> float:
    """CPU seconds of all that descends from this process, ended or not."""
    reap(descendants(os.getpid()))  # where it counts to the microsecond, and not to the tick
    reaped = resource.getrusage(resource.RUSAGE_CHILDREN)
    living_s = sum(process.cpu_s for process in descendants(os.getpid()))
    return reaped.ru_utime + reaped.ru_stime + living_s


def losers() -> list[int]:
    """Descendants that ignore SIGCHLD: the kernel forgets what their children used."""
    bit = 1 << (signal.SIGCHLD - 1)
    # The kernel sets it in the first process of a namespace that ends, when all is counted.
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
    """Make this process, and not init, the parent of descendants whose own parent ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def reap(processes: Iterable[Process]) -> None:
    """Take the ended ones that are children of this process off the process table."""
    for process in processes:
        if process.state == "Z" and process.parent == os.getpid():
            os.waitpid(process.pid, os.WNOHANG)


def kill_descendant(process: Process, root: int) -> bool:
    """SIGKILL a process if it still descends from `root`, and never one that took its number."""
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    try:
        # What the handle stands for cannot change any more: if it is in the tree now, it was.
        if process.pid not in {p.pid for p in descendants(root)}:
            return False
        signal.pidfd_send_signal(handle, signal.SIGKILL)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True


class LineServer:
    """A Python process of its own that is sent lines of JSON and sends some.

    Use it as a context manager; at the end it is hung up on and waited for, or killed on an error.
    """

    def __init__(self, arguments: list[str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            # As the pool's workers have one: some kernels share cores out by session.
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
        """Send a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(value) + "\n")
        self._process.stdin.flush()

    def receive(self) -> Any:
        """Wait for a line.

        Raises:
          EOFError: The process ended.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise EOFError(f"{self._process.args!r:.200} ended")
        return json.loads(line)

    def is_ready(self, wait_s: float) -> bool:
        """Whether a line, or the end, comes within so many seconds; one that was not read yet."""
        assert self._process.stdout is not None
        return bool(select.select([self._process.stdout], [], [], wait_s)[0])
