"""The judge's end of one jailed child: starting it, talking to it, and its limits in time."""

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
# An answer longer than this is not read: the judge's memory is not the program's to fill.
_ANSWER_MB = 64

# How often one looks at a child that keeps the judge waiting: does a thread of it run, or want to?
# The kernel's own counts would be exact, but they go with the thread that they are of.
_LOOK_S = 0.05


class JailError(Exception):
    """A child could not be jailed, or was killed from outside: not the program's doing."""


class ChildOver(BaseException):
    """The child ended, or was found to have used up its time, while the judge needed it."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a child ended.

    Attributes:
      status: Its exit status, or minus the signal that ended it.
      cpu_s: CPU seconds that it used.
      peak_mb: The most memory that it held, in MiB.
      timed_out: Why it was stopped, or ran too long; empty when it did not.
      output: A descriptor of the file that it was to leave; None when it did not.
    """

    status: int
    cpu_s: float
    peak_mb: float
    timed_out: str
    output: int | None

    @property
    def cause(self) -> str:
        """The way it ended, for a person."""
        return describe(self.status)


class Zygote:
    """The zygote's process, as the judge sees it."""

    def __init__(self, command: Sequence[str], config: Mapping[str, Any], pool: int) -> None:
        """Start it.

        Args:
          command: The interpreter with its options; the number of a descriptor is added.
          config: What `zygote.main` reads.
          pool: The connection to the pool: when that hangs up, nothing is waited for any more.

        Raises:
          JailError: It does not start.
        """
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pool = pool
        self._has_quota = config["has_quota"]
        self.children = 0  # that have not been ended
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
        """MiB that the files of its child take; 0 where their file system has a limit of its own.

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
        """A message with its descriptors.

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
    """A jailed child, from its start to `end`. Of several, the last to start is the first to end.

    Attributes:
      spoiled: What it did that no honest child does; empty when it did not.
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
        """Start it.

        Args:
          parent: Who forks it.
          limits: What it may use; at a time limit it is stopped.
          jail: "program", "binary" (may become another program once) or "compiler".
          files: Descriptors by name: "stdin", "stdout" and "stderr", /dev/null where there is
            none, and "kept", which it has as number 4 until it becomes another program.
          execute: What it becomes: path or descriptor, arguments and environment. Without, it is a
            Python interpreter that reads a task from `send`.
          output: The file in the scratch folder that it is to leave.
          bare: Without Landlock and seccomp, for a probe.
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
        self._events.register(parent.pool, 0)  # only its hang-up: the next job may lie there
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
          ChildOver: It is gone, or at a limit.
        """
        data = memoryview(LENGTH.pack(len(body)) + body)
        while data:
            try:
                data = data[self._channel.send(data) :]
            except BlockingIOError:
                self.wait(select.POLLOUT)
            except OSError:
                while True:  # what it still said comes before its end
                    self._read()

    def receive(self) -> bytes:
        """Receive a message.

        Raises:
          ChildOver: It is gone, at a limit, or sends more than can be an answer.
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
        # The first byte is not the program's: it says that the jail is on, and stays.
        del self._buffer[1:end]
        return body

    def is_done_well(self) -> bool:
        """Whether it is there, and has said nothing but what was received."""
        if self._over or self._timed_out or len(self._buffer) != 1:
            return False
        try:
            self._channel.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        return False  # nothing but an end comes without a question

    def report(self) -> bytes:
        """All that it says until it ends, or reaches a limit."""
        with contextlib.suppress(ChildOver):
            while len(self._buffer) < _REPORT_BYTES:
                self._read()
        return bytes(self._buffer[1:])

    def end(self) -> Ended:
        """End it if it has not ended itself, and all that it started.

        Raises:
          JailError: The jail could not be put on, or an outsider killed it.
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
        # The filter leaves a program no way to send itself this signal, and it is tried again.
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
          ChildOver: It reached one.
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
        """Count what it used, and whether it waits; it has timed out at its limits.

        A look counts for one `_LOOK_S`, however late it comes: a busy machine takes no time away.
        The limit of wall time counts all in which the judge waits, whatever the child does, but for
        the seconds in which a thread of it wanted a core and others had them; three times as much
        is too much on any machine.

        Args:
          answered: It waits for the judge, if at all.
        """
        if not self._pid:
            self._pid = self._find()
        try:
            threads = threads_of(self._pid) if self._pid > 0 else {}
            cpu_s = time.clock_gettime(cpu_clock(self._pid)) if threads else 0.0
        except OSError:  # it ended just now
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
