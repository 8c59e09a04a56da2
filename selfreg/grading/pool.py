"""The grader as the rest of selfreg sees it: many programs in, as many grades out, in order."""

import math
import os
import secrets
import selectors
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from selfreg.grading import layers, sandbox
from selfreg.grading.process import WorkerFailed, WorkerProcess
from selfreg.records import Grade, Language, Outcome, Problem

_CLOSE_TIMEOUT_S = 10.0
# When a worker without an answer counts as hung: far behind what its own limits allow, for it is
# one that does not enforce them that must be found, not one on a busy machine.
_HUNG_EXTRA_S = 60.0
_HUNG_FACTOR, _HUNG_COMPILER_S = 40.0, 600.0

_Task = tuple[Problem, str]


class GraderError(Exception):
    """The grader itself failed: there is no verdict, and a reward of 0 would be a lie."""


class GraderPool:
    """Grades programs in parallel, in warm sandboxed worker processes.

    Every program is taken for hostile. It has no network and starts no processes, reads libraries
    only, writes into a scratch folder only, which is emptied behind it, and is bounded in CPU time,
    waiting, memory and output. A pass means that the tests ran to their end; `grading/python.py`
    says what that does not prove. Programs have the standard library, and the same hashes and
    random numbers each time. C++ that does not compile within ten CPU seconds is a COMPILE_ERROR.

    Workers are started with subprocess and never forked, which is safe in a process with threads.
    Use the pool as a context manager, or call `close`.

    Args:
      workers: How many programs run at a time; 0 for one a core of this process.
      time_limit_scale: Multiplies the CPU limit of every problem.
      max_retries: How often a program is graded again after the grader, not the program, failed.
      recycle_after: A worker is replaced by a fresh one after so many programs.
      cpp_options: The compiler's options for C++.

    Attributes:
      layers: The layers of the sandbox that hold on this machine, each probed by attempting in a
        child what it forbids; `selfreg.grading.layers.probe` explains the names.

    Raises:
      ValueError: A bad argument.
      GraderError: The workers do not start, or nothing here keeps programs from the network.
    """

    def __init__(
        self,
        workers: int = 0,
        *,
        time_limit_scale: float = 1.0,
        max_retries: int = 2,
        recycle_after: int = 2000,
        cpp_options: Sequence[str] = ("-std=c++17", "-O1"),
    ) -> None:
        if not sys.platform.startswith("linux"):
            raise GraderError(f"the grader needs Linux, not {sys.platform}: use a container")
        for name, value, least in (
            ("workers", workers, 0),
            ("max_retries", max_retries, 0),
            ("recycle_after", recycle_after, 1),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, not {value}")
        if not 0 < time_limit_scale < math.inf:
            raise ValueError(f"time_limit_scale must be positive, not {time_limit_scale}")
        self.layers: tuple[str, ...] = ()
        self._time_limit_scale = time_limit_scale
        self._max_retries, self._recycle_after = max_retries, recycle_after
        self._counts = Counter(programs=0, timeouts=0, retries=0, worker_restarts=0)
        self._lock = threading.Lock()
        self._failed_starts = 0
        self._selector = selectors.DefaultSelector()
        self._folder = tempfile.TemporaryDirectory(prefix="selfreg-grader-")
        self._workers: list[WorkerProcess] = []
        compiler = shutil.which("g++")
        self._cpp = {
            "compiler": compiler and os.path.abspath(compiler),
            "options": list(cpp_options),
            "folder": os.path.join(self._folder.name, "cpp"),
            "token": secrets.token_hex(16),
        }
        try:
            for _ in range(workers or len(os.sched_getaffinity(0))):
                self._workers.append(self._start())
            while any(worker.layers is None for worker in self._workers):
                for worker in self._responsive():
                    self._greet(worker)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def counts(self) -> dict[str, int]:
        """Since the start: programs graded, timeouts among them, retries, worker_restarts."""
        return dict(self._counts)

    def grade(self, jobs: Sequence[tuple[Problem, str | None]]) -> list[Grade]:
        """Grade programs; calls from several threads take turns.

        Equal jobs of one call are graded once and share the grade.

        Args:
          jobs: (problem, program) pairs. None for the program is NO_CODE.

        Returns:
          One grade a job, in the order of the jobs. `time_s` has no compilation in it. Each case
          of a stdin/stdout problem has the whole time limit, and `time_s` is their sum; outputs are
          compared by line, whatever the blank lines and the white space within lines.

        Raises:
          GraderError: A verdict could not be reached, after `max_retries` tries more. Wrong, slow
            or malicious programs do not raise.
        """
        tasks = list(dict.fromkeys((p, program) for p, program in jobs if program is not None))
        with self._lock:
            if not self._workers:
                raise GraderError("the pool is closed")
            try:
                graded = dict(zip(tasks, self._grade(tasks), strict=True))
            except BaseException:
                # What is under way must not answer into the next call.
                for worker in [worker for worker in self._workers if worker.task is not None]:
                    self._replace(worker)
                raise
        no_code = Grade(Outcome.NO_CODE)
        grades = [no_code if code is None else graded[problem, code] for problem, code in jobs]
        verdicts = Counter(grade.outcome for grade in grades)
        assert len(jobs) == verdicts.total()
        assert not verdicts[Outcome.INFRA_ERROR]
        return grades

    def close(self) -> None:
        """End all workers and what they run, and remove every file.

        Safe to call twice. Waits for a call of `grade` in another thread.
        """
        with self._lock:
            self._selector.close()
            for worker in self._workers:
                worker.hang_up()
            for worker in self._workers:
                worker.end(_CLOSE_TIMEOUT_S)
            self._workers = []
            if os.path.exists(self._folder.name):
                sandbox.empty_folder(self._folder.name)
            self._folder.cleanup()

    def _grade(self, tasks: list[_Task]) -> list[Grade]:
        grades: dict[int, Grade] = {}
        failures: Counter[int] = Counter()
        queue = deque(range(len(tasks)))
        while len(grades) < len(tasks):
            for worker in self._workers:
                if worker.is_idle and queue:
                    task = queue.popleft()
                    worker.submit(task, *self._job(*tasks[task]))
            for worker in self._responsive():
                if worker.layers is None:
                    self._greet(worker)
                    continue
                running = worker.task
                try:
                    grade = worker.receive_grade()
                except WorkerFailed as error:
                    self._counts["worker_restarts"] += 1
                    self._replace(worker)
                    if running is not None:
                        failures[running] += 1
                        self._check_retries(tasks[running][0], failures[running], error)
                        queue.appendleft(running)
                    continue
                assert running is not None
                grades[running] = grade
                if worker.graded >= self._recycle_after:
                    self._replace(worker)
        self._counts["programs"] += len(tasks)
        self._counts["timeouts"] += sum(g.outcome is Outcome.TIMEOUT for g in grades.values())
        return [grades[task] for task in range(len(tasks))]

    def _job(self, problem: Problem, program: str) -> tuple[dict[str, Any], float]:
        """What a worker is told, and the seconds after which it counts as hung."""
        tests, time_limit_s = problem.tests, problem.time_limit_s * self._time_limit_scale
        job = {
            "language": problem.language.value,
            "setup": tests.setup,
            "program": program,
            "code": tests.code,
            "stdio": [(case.stdin, case.stdout) for case in tests.stdio],
            "time_limit_s": time_limit_s,
            "memory_limit_mb": problem.memory_limit_mb,
        }
        runs_s = time_limit_s * max(1, len(tests.stdio))
        compiler_s = _HUNG_COMPILER_S if problem.language is Language.CPP else 0.0
        return job, _HUNG_EXTRA_S + _HUNG_FACTOR * runs_s + compiler_s

    def _check_retries(self, problem: Problem, failures: int, error: WorkerFailed) -> None:
        if failures > self._max_retries:
            message = f"{problem.id} has no verdict after {failures} tries: {error}"
            raise GraderError(message) from error
        self._counts["retries"] += 1

    def _responsive(self) -> list[WorkerProcess]:
        """Wait; then the workers that said something, died or are overdue."""
        deadline = min(worker.deadline for worker in self._workers)
        wait_s = None if deadline == math.inf else max(0.0, deadline - time.monotonic())
        ready = {key.fileobj for key, _ in self._selector.select(wait_s)}
        now = time.monotonic()
        return [worker for worker in self._workers if worker in ready or worker.deadline <= now]

    def _greet(self, worker: WorkerProcess) -> None:
        try:
            held = worker.receive_layers()
        except WorkerFailed as error:
            self._failed_starts += 1
            if self._failed_starts > self._max_retries:
                raise GraderError(f"the grader's workers do not start: {error}") from error
            self._replace(worker)
            return
        self._failed_starts = 0
        if not layers.NETWORK.intersection(held):
            raise GraderError(
                "nothing here keeps programs from the network: run on x86_64 or aarch64 with a "
                "kernel that has seccomp, or as root where it can make network namespaces"
            )
        if self.layers and held != self.layers:
            raise GraderError(f"the sandbox changed while running: {self.layers}, now {held}")
        self.layers = held

    def _start(self) -> WorkerProcess:
        scratch = tempfile.mkdtemp(prefix="scratch-", dir=self._folder.name)
        worker = WorkerProcess({"scratch": scratch, "cpp": self._cpp})
        self._selector.register(worker, selectors.EVENT_READ)
        return worker

    def _replace(self, worker: WorkerProcess) -> None:
        self._selector.unregister(worker)
        worker.end()
        self._workers[self._workers.index(worker)] = self._start()
