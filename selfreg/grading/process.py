"""The pool's side of one worker: its process, its connection and its current task."""

import contextlib
import math
import os
import select
import signal
import socket
import subprocess
import sys
import time
from typing import Any

from selfreg.grading import boot, wire
from selfreg.grading.system import cpu_clock, describe
from selfreg.grading.trials import Trial
from selfreg.run.records import Grade, Outcome

_REPLY_BYTES = 65536
_SEND_TIMEOUT_S = 60.0
START_TIMEOUT_S = 120.0
_DEATH_S = 5.0


class WorkerFailed(Exception):
    """A worker died, hung or sent an invalid message: there is no verdict on the program."""


class Unavailable(WorkerFailed):
    """This machine does not allow the requested isolation."""


class WorkerProcess:
    """A worker, which consists of a judge and its zygote. It is starting, idle or busy with a task.

    Attributes:
      layers: The layers of the worker's sandbox that hold; None while the worker starts.
      scratch: The worker's own folder.
      task: The current task; None while the worker has none.
      deadline: When the worker counts as hung, in seconds on the monotonic clock.
      graded: The number of tasks done.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self.layers: tuple[str, ...] | None = None
        self.scratch: str = config["scratch"]
        self.task: Trial | None = None
        self.deadline = time.monotonic() + START_TIMEOUT_S
        self.graded = 0
        self._cases: list[Any] = []
        self._end = ""
        self._cpu_limit_s = math.inf
        self._connection, theirs = socket.socketpair()
        self._connection.settimeout(_SEND_TIMEOUT_S)
        with theirs:
            self._process = subprocess.Popen(
                [*boot.command(sys.executable, "judge"), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
                cwd="/",
                env=boot.ENVIRONMENT,
                # In a session of its own, the worker does not receive the terminal's Ctrl-C, and
                # `end` finds all parts of a compiler in the worker's process group.
                start_new_session=True,
            )
        self._send(config)

    def fileno(self) -> int:
        """Return the descriptor for a selector, readable when there is something to receive."""
        return self._connection.fileno()

    @property
    def is_idle(self) -> bool:
        """Whether the worker can take a task."""
        return self.layers is not None and self.task is None

    def submit(
        self, task: Trial, job: dict[str, Any], patience_s: float, judge_cpu_s: float
    ) -> None:
        """Give the worker a task. A failure shows in `receive_grade`.

        Args:
          task: The task.
          job: The description of the task for the judge. Its cases are not sent again if the judge
            already has them.
          patience_s: Seconds after which the worker counts as hung.
          judge_cpu_s: CPU seconds that the judge may spend on the task.
        """
        self.task = task
        self.deadline = time.monotonic() + patience_s
        self._cpu_limit_s = self._cpu_s() + judge_cpu_s
        # The completions of a problem come in a row, so that megabytes of cases are sent only once.
        told, self._cases = self._cases, job["stdio"]
        self._send(job | {"stdio": None} if told and told == self._cases else job)

    @property
    def is_stuck(self) -> bool:
        """Whether the judge itself has used up its CPU limit, so that the tests do not end."""
        return self.task is not None and self._cpu_s() > self._cpu_limit_s

    def _cpu_s(self) -> float:
        try:
            return time.clock_gettime(cpu_clock(self._process.pid))
        except OSError:  # it died
            return 0.0

    def receive_layers(self) -> tuple[str, ...]:
        """Receive the worker's greeting, which lists the layers of its sandbox.

        Raises:
          WorkerFailed: No valid greeting came.
          Unavailable: This machine has no such sandbox.
        """
        greeting = self._receive()
        if "unavailable" in greeting:
            raise Unavailable(greeting["unavailable"])
        layers = greeting.get("layers")
        if not isinstance(layers, list):
            raise WorkerFailed("the worker sent no greeting")
        self.layers, self.deadline = tuple(map(str, layers)), math.inf
        return self.layers

    def receive_grade(self) -> Grade:
        """Receive the grade of the current task, and make the worker idle.

        Raises:
          WorkerFailed: No valid grade came.
        """
        reply = self._receive()
        try:
            grade = Grade(
                Outcome(reply["outcome"]),
                float(reply["time_s"]),
                # The program may have written this text. Half a surrogate pair cannot be written to
                # a file.
                str(reply["detail"]).encode(errors="backslashreplace").decode(),
                float(reply["peak_mb"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise WorkerFailed(f"the worker sent a malformed reply: {reply!r:.100}") from error
        if self.task is None:
            raise WorkerFailed("the worker sent a reply to nothing")
        if grade.outcome is Outcome.INFRA_ERROR:
            raise WorkerFailed(grade.detail)
        self.task, self.deadline = None, math.inf
        self.graded += 1
        return grade

    def hang_up(self) -> None:
        """Close the connection. A sound worker then ends everything that it runs, and itself."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)  # a fork of the trainer may hold it open
        self._connection.close()

    def end(self, timeout_s: float = 0.0) -> str:
        """Wait up to `timeout_s` seconds for the process to end, then kill it and all its parts.

        Returns:
          A description of how the process ended.
        """
        self.hang_up()
        if self._process.returncode is None:
            ending = os.pidfd_open(self._process.pid)
            select.select([ending], [], [], timeout_s)
            os.close(ending)
            # Kill the group before the process is reaped: until then, no other group can get its
            # number.
            with contextlib.suppress(ProcessLookupError):  # killed before it had a group
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.kill()
            self._process.wait()
            errors = self._process.stderr
            assert errors is not None
            with errors:
                os.set_blocking(errors.fileno(), False)
                last_words = (errors.read() or b"").decode(errors="replace").strip()
            how = describe(self._process.wait())
            self._end = f"{how} {last_words.rpartition(chr(10))[2]}".strip()
        return self._end

    def _send(self, message: dict[str, Any]) -> None:
        try:
            wire.send(self._connection, message)
        except OSError:
            self.deadline = 0.0

    def _receive(self) -> dict[str, Any]:
        if time.monotonic() >= self.deadline:
            raise WorkerFailed(f"the worker hung; {self.end()}")
        try:
            message = wire.receive(self._connection, _REPLY_BYTES)
        except (OSError, ValueError) as error:
            raise WorkerFailed(f"the worker broke off: {error}; {self.end()}") from error
        if message is None:
            raise WorkerFailed(f"the worker died: {self.end(_DEATH_S)}")
        return message
