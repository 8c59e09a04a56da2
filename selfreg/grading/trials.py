"""Attempts at the tasks of one call: which comes next, and who is at fault when workers fail."""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from selfreg.run.records import Grade, Language, Outcome, Problem, StdioCase, Tests

Task = tuple[Problem, str]

# Programs that pass if the grader works, by language and by whether they read standard input.
_ECHO = Tests(stdio=(StdioCase("7", "7"),))
_KNOWN_GOOD: dict[tuple[Language, bool], Task] = {
    (Language.PYTHON, False): (
        Problem("probe", "", Tests(code="assert f(7) == 7"), entry_point="f", time_limit_s=10.0),
        "def f(x):\n    return x\n",
    ),
    (Language.PYTHON, True): (
        Problem("probe", "", _ECHO, time_limit_s=10.0),
        "print(input())\n",
    ),
    (Language.CPP, True): (
        Problem("probe", "", _ECHO, Language.CPP, time_limit_s=10.0),
        '#include <cstdio>\nint main() { puts("7"); }\n',
    ),
}


class Trial(NamedTuple):
    """One attempt at a task. With `probes`, a known-good program is graded in its place."""

    number: int
    probes: bool = False


class Trials:
    """The state of the tasks of one call.

    A failed worker says nothing about the program, because anyone may have killed the worker. The
    program is therefore tried again. If all its workers have failed, a known-good program is
    graded. If that one passes, the program is at fault, and ending its workers is its verdict. If
    it does not pass, the grader is at fault, and there is no verdict.

    Attributes:
      retries: The number of times that a program was tried again.
    """

    def __init__(self, tasks: Sequence[Task], max_retries: int) -> None:
        self.retries = 0
        self._tasks, self._max_retries = tasks, max_retries
        self._queue = deque(map(Trial, range(len(tasks))))
        self._grades: dict[int, Grade] = {}
        self._failures: dict[int, list[str]] = {}

    @property
    def are_over(self) -> bool:
        """Whether every task has its grade."""
        return len(self._grades) == len(self._tasks)

    def next(self) -> Trial | None:
        """Return the next trial; None if there is none at present."""
        return self._queue.popleft() if self._queue else None

    def task(self, trial: Trial) -> Task:
        """Return the problem and the program of a trial."""
        problem, program = self._tasks[trial.number]
        if not trial.probes:
            return problem, program
        with_input = bool(problem.tests.stdio) or problem.language is Language.CPP
        return _KNOWN_GOOD[problem.language, with_input]

    def end(self, trial: Trial, grade: Grade) -> None:
        """Record the grade of a trial."""
        if not trial.probes:
            self._grades[trial.number] = grade
            return
        failures = self._failures[trial.number]
        if grade.outcome is Outcome.PASSED:
            detail = f"ended its worker {len(failures)} times: {failures[-1]}"
            self._grades[trial.number] = Grade(Outcome.EXCEPTION, detail=detail)
        else:
            self.fail(trial, f"{grade.outcome.value} {grade.detail}")

    def fail(self, trial: Trial, why: str) -> None:
        """Record that the worker of a trial failed."""
        failures = self._failures.setdefault(trial.number, [])
        if trial.probes:
            detail = f"no verdict after {len(failures)} tries: {failures[-1]}"
            detail += f"; a known-good program: {why}"
            self._grades[trial.number] = Grade(Outcome.INFRA_ERROR, detail=detail)
            return
        failures.append(why)
        again = len(failures) <= self._max_retries
        self.retries += again
        self._queue.appendleft(trial if again else Trial(trial.number, probes=True))

    def grades(self) -> list[Grade]:
        """Return a grade for every task, which is INFRA_ERROR for tasks that have none."""
        late = Grade(Outcome.INFRA_ERROR, detail="no verdict in the time that a call may take")
        return [self._grades.get(number, late) for number in range(len(self._tasks))]
