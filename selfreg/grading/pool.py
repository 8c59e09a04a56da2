"""Grade batches of programs in parallel worker processes, and return the grades in order."""

import contextlib
import math
import os
import selectors
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from selfreg.grading.folder import make_folder, remove_folder
from selfreg.grading.headers import Settings
from selfreg.grading.jobs import describe_job, reason_to_refuse
from selfreg.grading.ladder import LADDER, refusal
from selfreg.grading.modules import gather
from selfreg.grading.process import START_TIMEOUT_S, Unavailable, WorkerFailed, WorkerProcess
from selfreg.grading.system import empty_folder
from selfreg.grading.trials import Task, Trial, Trials
from selfreg.run.records import Grade, Language, Outcome, Problem

_CLOSE_TIMEOUT_S = 10.0
# A worker counts as hung after this long without an answer. This is far more than its own limits
# allow, to catch workers that fail to enforce them, and not those on a busy machine.
_HUNG_EXTRA_S = 60.0
_HUNG_FACTOR, _HUNG_COMPILER_S = 40.0, 600.0
# CPU seconds of the judge itself per job, to catch tests that never end; how often the pool checks.
_JUDGE_EXTRA_S, _JUDGE_LOOK_S = 5.0, 0.5


class GraderError(Exception):
    """The grader itself failed. There is no verdict, and a reward of 0 would be wrong."""


class GraderPool:
    """Grade programs in parallel, in warm sandboxed worker processes.

    Every program is treated as hostile. It has no network and starts no processes. It can read
    libraries only, and write only to a scratch folder that is emptied after each program. Its CPU
    time, waiting time, wall-clock time, memory, threads, files and output are limited. Tests of
    Python functions run outside the program's reach, in a judge that compares plain data. A pass
    means that the tests ran to their end there. Tests of C++ functions are compiled and run apart
    from the program, and receive only the values that calls of it return.
    Programs have the standard library, and see the same hashes and random numbers in every run. C++
    that does not compile within ten CPU seconds is a COMPILE_ERROR.

    Workers are started with subprocess and never forked, which is safe in a process with threads.
    Use the pool as a context manager, or call `close`.

    Args:
      workers: The number of programs that run at a time; 0 means one for each core of this process.
      time_limit_scale: A factor on the CPU limit of every problem.
      max_retries: How often a program is graded again after its worker failed. If its worker fails
        every time, the program gets an EXCEPTION if a known-good program then passes.
      recycle_after: The number of programs after which a worker is replaced by a fresh one.
      cpp_options: The compiler options for C++.
      isolation: One of `selfreg.grading.ladder.LADDER`, or "auto" for the first that works here.
      allow_weak: Whether to continue with the available layers if no isolation works.
      modules: Installed modules that programs and tests may import beside the standard library.

    Attributes:
      isolation: The isolation in use.
      layers: The layers of the sandbox that hold. Each was probed by a child that attempted what
        the layer forbids; see `selfreg.grading.ladder.LAYERS`.

    Raises:
      ValueError: An argument is invalid.
      GraderError: The workers do not start, or no isolation works here.
    """

    def __init__(
        self,
        workers: int = 0,
        *,
        time_limit_scale: float = 1.0,
        max_retries: int = 2,
        recycle_after: int = 2000,
        cpp_options: Sequence[str] = ("-std=c++17", "-O1"),
        isolation: str = "auto",
        allow_weak: bool = False,
        modules: Sequence[str] = (),
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
        if isolation not in ("auto", *LADDER):
            raise ValueError(f"isolation must be auto, {', '.join(LADDER)}, not {isolation!r}")
        self.isolation = ""
        self.layers: tuple[str, ...] = ()
        self._time_limit_scale = time_limit_scale
        self._max_retries, self._recycle_after = max_retries, recycle_after
        self._counts = Counter(programs=0, timeouts=0, retries=0, worker_restarts=0)
        self._broken: dict[Problem, str] = {}
        self._sound: set[Problem] = set()
        self._lock = threading.Lock()
        self._failed_starts = 0
        self._selector = selectors.DefaultSelector()
        self._folder, self._claim = make_folder()
        self._workers: list[WorkerProcess] = []
        compiler = shutil.which("g++")
        self._cpp = Settings(
            compiler and os.path.abspath(compiler),
            list(cpp_options),
            os.path.join(self._folder, "cpp"),
        )
        for folder, mode in (
            (self._cpp.folder, 0o755),
            (self._cpp.headers, 0o755),
            (self._cpp.binaries, 0o700),
        ):
            os.mkdir(folder)
            os.chmod(folder, mode)  # whatever the umask: programs may run as another user
        self._modules: dict[str, Any] = {"folder": None, "names": list(modules)}
        if modules:
            self._modules["folder"] = os.path.join(self._folder, "modules")
            gather(modules, self._modules["folder"])
        cores = sorted(os.sched_getaffinity(0))
        count = workers or len(cores)
        # Pin the workers only if there is at least one for each core: a pinned worker keeps its
        # cache. With fewer workers, the scheduler can move them away from busy cores.
        self._cores = cores if count >= len(cores) else []
        try:
            self._climb(LADDER if isolation == "auto" else (isolation,), allow_weak)
            while len(self._workers) < count:
                self._workers.append(self._start(len(self._workers)))
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
    def workers(self) -> int:
        """The number of programs that run at a time."""
        return len(self._workers)

    @property
    def counts(self) -> dict[str, int]:
        """Counts since the start: programs, timeouts among them, retries and worker_restarts."""
        return dict(self._counts)

    def grade(self, jobs: Sequence[tuple[Problem, str | None]]) -> list[Grade]:
        """Grade programs. Calls from several threads take turns.

        Equal jobs of one call are graded once and share the grade. The call returns when all jobs
        are done. Each worker has one program at a time, so that nothing queues behind a slow one.

        A call ends within sum(p) / workers + (max_retries + 2) (max(p) + 120 s). Here p is the time
        after which a busy worker counts as hung: 60 s, plus 40 times the CPU limit of all cases of
        its problem, plus 600 s for C++. A job without a grade by then gets INFRA_ERROR. These
        limits are for a broken machine. In normal operation a program is stopped when it has used
        its CPU limit, has waited for one second longer than that limit, or has kept the judge
        waiting for six times that limit plus one second. Time in which other processes occupy the
        cores does not count, up to a total of three times the last limit.

        Args:
          jobs: (problem, program) pairs. A program of None gets NO_CODE.

        Returns:
          One grade for each job, in the order of the jobs. Each case of a stdin/stdout problem has
          the whole time limit. Outputs are compared by line, without regard to blank lines and to
          white space within lines, unless the problem names another checker. The grade is
          TEST_ERROR if the tests do not parse, never mention the entry point, fail in their set-up,
          or did not let the solution pass in `validate`. It is INFRA_ERROR if no verdict could be
          reached and a known-good program could not be graded either.

        Raises:
          GraderError: The workers no longer start. No program can cause this.
        """
        wanted = ((p, program) for p, program in jobs if program is not None)
        tasks = [task for task in dict.fromkeys(wanted) if task[0] not in self._broken]
        with self._lock:
            if not self._workers:
                raise GraderError("the pool is closed")
            try:
                graded = dict(zip(tasks, self._grade(tasks), strict=True))
            except BaseException:
                self._drop_tasks()
                raise
        grades = []
        for problem, program in jobs:
            if program is None:
                grades.append(Grade(Outcome.NO_CODE))
            elif problem in self._broken:
                grades.append(Grade(Outcome.TEST_ERROR, detail=self._broken[problem]))
            else:
                grades.append(self._blame(problem, graded[problem, program]))
        verdicts = Counter(grade.outcome for grade in grades)
        assert len(jobs) == verdicts.total()
        return grades

    def close(self) -> None:
        """End all workers and everything that they run, and remove every file.

        The method can be called twice. It waits for a call of `grade` in another thread.
        """
        with self._lock:
            self._selector.close()
            for worker in self._workers:
                worker.hang_up()
            for worker in self._workers:
                worker.end(_CLOSE_TIMEOUT_S)
            self._workers = []
            if self._folder:
                remove_folder(self._folder, self._claim)
                self._folder = ""

    def validate(self, problems: Iterable[Problem]) -> dict[str, str]:
        """Find problems that cannot be graded, and give their programs TEST_ERROR from now on.

        A problem cannot be graded if its tests cannot work through proxies
        (`selfreg.grading.reach`), or if its own solution fails.

        Returns:
          The reasons, by problem id.

        Raises:
          GraderError: As in `grade`, or a solution gets INFRA_ERROR.
        """
        problems = list(problems)
        broken = {problem: why for problem in problems if (why := reason_to_refuse(problem))}
        solved = [(p, p.solution) for p in problems if p.solution and p not in broken]
        for (problem, _), grade in zip(solved, self.grade(solved), strict=True):
            if grade.outcome is Outcome.INFRA_ERROR:
                raise GraderError(f"the solution of {problem.id} has no verdict: {grade.detail}")
            if grade.outcome is not Outcome.PASSED:
                broken[problem] = f"its own solution gets {grade.outcome.value}: {grade.detail}"
        self._broken |= broken
        self._sound |= {problem for problem, _ in solved if problem not in broken}
        return {problem.id: why for problem, why in broken.items()}

    def _grade(self, tasks: list[Task]) -> list[Grade]:
        trials = Trials(tasks, self._max_retries)
        self._failed_starts = 0
        deadline = time.monotonic() + self._most_s(tasks)
        while not trials.are_over and time.monotonic() < deadline:
            for worker in self._workers:
                if worker.is_idle and (trial := trials.next()):
                    self._submit(worker, trial, *trials.task(trial))
            for worker in self._workers.copy():
                if worker.task is not None and worker.is_stuck:
                    why = "the tests do not end on its answers"
                    trials.end(worker.task, Grade(Outcome.TIMEOUT, 0.0, why))
                    self._replace(worker)
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
                        trials.fail(running, str(error))
                    continue
                assert running is not None
                trials.end(running, grade)
                if worker.graded >= self._recycle_after:
                    self._replace(worker)
        self._drop_tasks()
        grades = trials.grades()
        self._counts["programs"] += len(tasks)
        self._counts["timeouts"] += sum(grade.outcome is Outcome.TIMEOUT for grade in grades)
        self._counts["retries"] += trials.retries
        return grades

    def _submit(self, worker: WorkerProcess, trial: Trial, problem: Problem, program: str) -> None:
        job = describe_job(problem, program, problem.time_limit_s * self._time_limit_scale)
        judge_cpu_s = _JUDGE_EXTRA_S + self._cpu_s(problem)
        worker.submit(trial, job, self._patience_s(problem), judge_cpu_s)

    def _blame(self, problem: Problem, grade: Grade) -> Grade:
        """Blame the program for a TEST_ERROR if the problem's solution has passed these tests."""
        if grade.outcome is Outcome.TEST_ERROR and problem in self._sound:
            return replace(grade, outcome=Outcome.EXCEPTION)
        return grade

    def _drop_tasks(self) -> None:
        """Replace all busy workers, so that none of them answers into the next call."""
        for worker in self._workers.copy():
            if worker.task is not None:
                self._replace(worker)

    def _most_s(self, tasks: list[Task]) -> float:
        """Return the most seconds that a call may take: see `grade`."""
        patience = [self._patience_s(problem) for problem, _ in tasks] or [0.0]
        tries = self._max_retries + 2
        return sum(patience) / len(self._workers) + tries * (max(patience) + START_TIMEOUT_S)

    def _patience_s(self, problem: Problem) -> float:
        """Return the seconds after which a worker that is busy with this problem counts as hung."""
        extra_s = _HUNG_COMPILER_S if problem.language is Language.CPP else 0.0
        return _HUNG_EXTRA_S + extra_s + _HUNG_FACTOR * self._cpu_s(problem)

    def _cpu_s(self, problem: Problem) -> float:
        """Return the CPU limit of all cases of a problem, in seconds."""
        return problem.time_limit_s * self._time_limit_scale * max(1, len(problem.tests.stdio))

    def _responsive(self) -> list[WorkerProcess]:
        """Wait, then return the workers that sent something, died or are overdue."""
        deadline = min(worker.deadline for worker in self._workers)
        wait_s = min(_JUDGE_LOOK_S, max(0.0, deadline - time.monotonic()))
        ready = {key.fileobj for key, _ in self._selector.select(wait_s)}
        now = time.monotonic()
        return [worker for worker in self._workers if worker in ready or worker.deadline <= now]

    def _climb(self, ladder: Sequence[str], allow_weak: bool) -> None:
        """Start the first worker in the strongest isolation that works here."""
        reasons = []
        for isolation in (*ladder, *(("weak",) if allow_weak else ())):
            self.isolation = isolation
            worker = self._start(0)
            self._workers.append(worker)
            try:
                while worker.layers is None:
                    for worker in self._responsive():
                        self._greet(worker)
                held = worker.layers
                why = refusal(isolation, held)
            except Unavailable as error:
                why = str(error)
            if not why:
                self.layers = held
                return
            reasons.append(f"{isolation}: {why}")
            self._workers.remove(worker)
            self._end(worker)
        if len(ladder) == 1 and not allow_weak:
            raise GraderError(f"no isolation of that kind here: {reasons[0]}")
        raise GraderError(
            f"nothing here keeps programs in ({'; '.join(reasons)}). Run as root, or allow "
            "unprivileged user namespaces, or use a kernel with Landlock and seccomp; "
            "`python -m selfreg.grading.doctor` says more"
        )

    def _greet(self, worker: WorkerProcess) -> None:
        try:
            held = worker.receive_layers()
        except Unavailable:
            if self.layers:
                self._replace(worker)  # it was available before: this start failed
                return
            raise
        except WorkerFailed as error:
            self._failed_starts += 1
            if self._failed_starts > self._max_retries:
                raise GraderError(f"the grader's workers do not start: {error}") from error
            self._replace(worker)
            return
        self._failed_starts = 0
        if self.layers and held != self.layers:
            raise GraderError(f"the sandbox changed while running: {self.layers}, now {held}")

    def _start(self, place: int) -> WorkerProcess:
        worker = WorkerProcess(
            {
                "isolation": self.isolation,
                "core": self._cores[place % len(self._cores)] if self._cores else None,
                "scratch": tempfile.mkdtemp(prefix="scratch-", dir=self._folder),
                "interpreter": os.path.realpath(sys.executable),
                "cpp": self._cpp._asdict(),
                "modules": self._modules,
            }
        )
        self._selector.register(worker, selectors.EVENT_READ)
        return worker

    def _replace(self, worker: WorkerProcess) -> None:
        self._end(worker)
        place = self._workers.index(worker)
        self._workers[place] = self._start(place)

    def _end(self, worker: WorkerProcess) -> None:
        self._selector.unregister(worker)
        worker.end()
        with contextlib.suppress(FileNotFoundError):
            empty_folder(worker.scratch)
            os.rmdir(worker.scratch)
