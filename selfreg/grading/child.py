"""The judge's side of one jailed child: its start, its messages and its time limits."""

import contextlib
import json
import marshal
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selfreg.grading import zygote
from selfreg.grading.namespaces import SCRATCH_MB
from selfreg.grading.program import LENGTH
from selfreg.grading.sandbox import LOAD_FACTOR, Limits
from selfreg.grading.system import cpu_clock, describe
from selfreg.grading.threads import HOST_PROC, open_in_proc, threads_of

_STANDARD = ("stdin", "stdout", "stderr")
_REPORT_BYTES = 65536
# A longer answer is not read, so that a program cannot fill the judge's memory.
_ANSWER_MB = 64

# How often the judge checks whether a child that it waits for has a thread that runs, or wants to.
# The kernel's own counts would be exact, but each disappears with its thread.
_LOOK_S = 0.05


class JailError(Exception):
    """A child could not be jailed, or was killed from outside. The program is not at fault."""


class ChildOver(BaseException):
    """The child ended, or reached a limit, while the judge needed it."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a child ended.

    Attributes:
      status: Its exit status, or minus the signal that ended it.
      cpu_s: CPU seconds that it used.
      peak_mb: The most memory that it held, in MiB.
      timed_out: Why it was stopped or ran too long; empty if neither happened.
      output: A descriptor of the file that it was to leave; None if it left none.
    """

    status: int
    cpu_s: float
    peak_mb: float
    timed_out: str
    output: int | None

    @property
    def cause(self) -> str:
        """A description of how the child ended."""
        return describe(self.status)


class Zygote:
    """The zygote's process, as the judge sees it."""

    def __init__(self, command: Sequence[str], config: Mapping[str, Any], pool: int) -> None:
        """Start the zygote.

        Args:
          command: The interpreter with its options; the number of a descriptor is added.
          config: The configuration that `zygote.main` reads.
          pool: The connection to the pool. When the pool hangs up, the judge stops waiting for
            children.

        Raises:
          JailError: The zygote does not start.
        """
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pool = pool
        self._has_quota = config["has_quota"]
        self.children = 0  # started and not yet ended
        with theirs:
            self._process = subprocess.Popen(
                [*command, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                cwd="/",
                env=dict(os.environ),
            )
        files = [HOST_PROC] if config["threads"] else []
        socket.send_fds(self.control, [json.dumps(config).encode()], files)
        if self.receive()[0] != b"ready":
            raise JailError("the zygote does not start")

    def space_mb(self) -> int:
        """Return the MiB that the children's files take; 0 if their file system has its own limit.

        Raises:
          JailError: The zygote is gone.
        """
        if self._has_quota:
            return 0
        try:
            self.control.send(zygote.SPACE)
        except OSError as error:
            raise JailError("the zygote died") from error
        return int(self.receive()[0])

    def receive(self) -> tuple[bytes, list[int]]:
        """Return a message of the zygote and the descriptors that came with it.

        Raises:
          JailError: The zygote is gone.
        """
        try:
            message, files, _, _ = socket.recv_fds(self.control, zygote.MESSAGE_BYTES, 1)
        except OSError:
            message, files = b"", []
        if not message:
            raise JailError("the zygote died")
        return message, files


class Child:
    """A jailed child, from its start to `end`. Of several, the last to start must end first.

    Attributes:
      spoiled: Which rule the child broke that no honest child breaks; empty if none.
    """

    def __init__(
        self,
        parent: Zygote,
        limits: Limits,
        *,
        jail: str = "program",
        files: Mapping[str, int] | None = None,
        execute: tuple[str | int, list[str], dict[str, str]] | None = None,
        output: str = "",
        bare: bool = False,
    ) -> None:
        """Start the child.

        Args:
          parent: The zygote that forks it.
          limits: Its resource limits. It is stopped when it reaches a time limit.
          jail: "program", "binary" (may execute another program once) or "compiler".
          files: Descriptors by name: "stdin", "stdout" and "stderr", each /dev/null if absent, and
            "kept", which the child holds as descriptor 4 until it executes another program.
          execute: The program to execute: path or descriptor, arguments and environment. Without
            it, the child is a Python interpreter that reads a task from `send`.
          output: The file in the scratch folder that the child must leave.
          bare: Whether to leave out Landlock and seccomp, for a probe.
        """
        self._parent, self._limits = parent, limits
        self._waited_s, self._wall_s, self._kept_s = 0.0, 0.0, 0.0
        self._unseen_s, self._unlooked_s = _LOOK_S, 0.0
        self._queued: dict[str, float] = {}
        self.spoiled, self._timed_out, self._over = "", "", False
        self._buffer = bytearray()
        self._pid = 0
        self._channel, theirs = socket.socketpair()
        self._channel.setblocking(False)
        self._events = select.poll()
        self._events.register(parent.pool, 0)  # only its hang-up: the next job may wait there
        given = dict(files or {})
        kept = [given.pop("kept")] if "kept" in given else []
        job = {
            "jail": jail,
            "limits": (limits.cpu_s, limits.memory_mb, limits.file_mb),
            "keeps": len(kept),
            "standard": [_STANDARD.index(name) for name in given],
            "execute": execute,
            "output": output,
            "bare": bare,
        }
        descriptors = [theirs.fileno(), *kept, *given.values()]
        with theirs:
            try:
                socket.send_fds(parent.control, [marshal.dumps(job)], descriptors)
            except OSError as error:
                raise JailError("the zygote died") from error
        self._place = parent.children
        parent.children += 1

    def send(self, body: bytes) -> None:
        """Send a message.

        Raises:
          ChildOver: The child is gone, or has reached a limit.
        """
        data = memoryview(LENGTH.pack(len(body)) + body)
        while data:
            try:
                data = data[self._channel.send(data) :]
            except BlockingIOError:
                self.wait(select.POLLOUT)
            except OSError:
                while True:  # read what the child sent before it ended
                    self._read()

    def receive(self) -> bytes:
        """Receive a message.

        Raises:
          ChildOver: The child is gone, has reached a limit, or sends more than an answer may hold.
        """
        while len(self._buffer) < 1 + LENGTH.size:
            self._read()
        (length,) = LENGTH.unpack_from(self._buffer, 1)
        if length > _ANSWER_MB << 20:
            self.spoiled = f"answered with {length >> 20} MiB; the most is {_ANSWER_MB} MiB"
            raise ChildOver
        end = 1 + LENGTH.size + length
        while len(self._buffer) < end:
            self._read()
        body = bytes(self._buffer[1 + LENGTH.size : end])
        # Keep the first byte. It does not come from the program: it says that the jail is on.
        del self._buffer[1:end]
        return body

    def is_done_well(self) -> bool:
        """Whether the child still runs, and has sent nothing that was not received."""
        if self._over or self._timed_out or len(self._buffer) != 1:
            return False
        try:
            self._channel.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        return False  # there is an unasked message, or the end of the stream

    def report(self) -> bytes:
        """Return everything that the child sends until it ends or reaches a limit."""
        with contextlib.suppress(ChildOver):
            while len(self._buffer) < _REPORT_BYTES:
                self._read()
        return bytes(self._buffer[1:])

    def end(self) -> Ended:
        """End the child if it still runs, and end everything that it started.

        Raises:
          JailError: The jail could not be put on, or the child was killed from outside.
        """
        self._parent.children -= 1
        try:
            self._parent.control.send(zygote.REAP if self._over else zygote.END)
            while (answer := self._parent.receive())[0] == zygote.PID:
                os.close(*answer[1])
        except OSError as error:
            raise JailError("the zygote died") from error
        self._channel.close()
        reply, files = answer
        status, cpu_s, peak_mb, killed = json.loads(reply)
        output = files[0] if files else None
        heard = self._over or self._buffer or self._timed_out
        if heard and not self._buffer.startswith(zygote.CONFINED):
            said = self._buffer.decode(errors="replace")
            raise JailError(f"the child could not be jailed: {said or describe(status)}")
        timed_out = self._timed_out
        if not timed_out and (cpu_s > self._limits.cpu_s or status == -signal.SIGXCPU):
            timed_out = f"used {cpu_s:.1f} CPU seconds of {self._limits.cpu_s:.1f}"
        # Someone else killed the program, because the filter keeps it from killing itself. It is
        # tried again.
        if status == -signal.SIGKILL and not killed and not timed_out:
            raise JailError("SIGKILL ended the program: is the machine short of memory?")
        return Ended(status, cpu_s, peak_mb, timed_out, output)

    def _read(self) -> None:
        while True:
            self.wait(select.POLLIN)
            try:
                data = self._channel.recv(1 << 18)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            if not data:
                self._over = True
                raise ChildOver
            self._buffer += data
            return

    def wait(self, event: int) -> None:
        """Wait for the channel, and stop the child at its limits.

        Raises:
          ChildOver: The child reached a limit.
          ConnectionResetError: The pool hung up meanwhile.
        """
        self._events.register(self._channel, event)
        while True:
            started = time.monotonic()
            ready = self._events.poll(1000 * self._unseen_s + 1)
            took_s = time.monotonic() - started
            self._unseen_s -= took_s
            self._unlooked_s += took_s
            if self._unseen_s <= 0:
                self._unseen_s = _LOOK_S
                self._look(answered=bool(ready))
            if any(file == self._parent.pool for file, _ in ready):
                raise ConnectionResetError("the pool hung up")
            if self._timed_out or self.spoiled:
                raise ChildOver
            if ready:
                return

    def _look(self, answered: bool) -> None:
        """Measure the child's use of CPU and whether it waits, and mark it as timed out at a limit.

        Each look adds one `_LOOK_S` of waiting at most, however late it comes, so that a busy
        machine does not shorten the time to wait. The wall-time limit counts all the time in which
        the judge waits for the child, except for seconds in which a thread of the child wanted a
        core and had none. Three times the limit, with those seconds included, is too much on any
        machine.

        Args:
          answered: Whether the channel is ready, so that the child waits for the judge if it waits.
        """
        if not self._pid:
            self._pid = self._find()
        try:
            threads = threads_of(self._pid) if self._pid > 0 else {}
            cpu_s = time.clock_gettime(cpu_clock(self._pid)) if threads else 0.0
        except OSError:  # the child ended just now
            threads, cpu_s = {}, 0.0
        queued = (thread.queued_s - self._queued.get(n, 0.0) for n, thread in threads.items())
        queued_s = max(queued, default=0.0)
        self._queued = {number: thread.queued_s for number, thread in threads.items()}
        self._wall_s += max(0.0, self._unlooked_s - queued_s)
        self._kept_s += self._unlooked_s
        self._unlooked_s = 0.0
        if threads and self._parent.space_mb() > SCRATCH_MB:
            self.spoiled = f"wrote files of more than {SCRATCH_MB} MiB"
        if threads and not answered and all(thread.waits for thread in threads.values()):
            self._waited_s += _LOOK_S
        if cpu_s >= self._limits.cpu_s:
            self._timed_out = f"used its {self._limits.cpu_s:.1f} CPU seconds"
        elif self._waited_s >= self._limits.wait_s:
            self._timed_out = f"waited for {self._waited_s:.1f} s"
        elif max(self._wall_s, self._kept_s / LOAD_FACTOR) >= self._limits.wall_s:
            self._timed_out = f"took {self._kept_s:.1f} s"

    def _find(self) -> int:
        self._parent.control.send(zygote.PID + bytes([self._place]))
        _, (process,) = self._parent.receive()
        with open_in_proc(f"self/fdinfo/{process}") as file:
            lines = dict(line.split(":", 1) for line in file.read().splitlines())
        os.close(process)
        return int(lines["Pid"])


@contextlib.contextmanager
def memory_file(data: bytes = b"") -> Iterator[int]:
    """Yield the descriptor of a file without a path, positioned at its start."""
    file = os.memfd_create("selfreg", os.MFD_CLOEXEC)
    try:
        with open(file, "wb", closefd=False) as writer:
            writer.write(data)
        os.lseek(file, 0, os.SEEK_SET)
        yield file
    finally:
        os.close(file)


def contents(file: int) -> bytes:
    """Return the whole contents of a file, whatever its offset."""
    return os.pread(file, os.fstat(file).st_size, 0)
