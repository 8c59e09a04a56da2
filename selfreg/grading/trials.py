"""The tries of one call's programs: which comes next, and whose fault it is when workers fail."""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from selfreg.run.records import Grade, Language, Outcome, Problem, StdioCase, Tests

Task = tuple[Problem, str]

# Programs that a sound grader lets pass, by language and by whether they have standard input.
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
    """One try of a task, or with `probes` that of a known-good program in its stead."""

    number: int
    probes: bool = False


class Trials:
    """What became of the tasks of one call so far.

    A worker that fails says nothing about the program: anyone may have killed it, and the program
    is tried again. When it has failed all its workers, a known-good program is graded. That one
    passes: the program ends its workers, and this is its verdict. It does not: the grader is in
    trouble, and there is no verdict.

    Attributes:
      retries: How often a program was tried again.
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
        """What is to be graded next; None for nothing."""
        return self._queue.popleft() if self._queue else None

    def task(self, trial: Trial) -> Task:
        """The problem and the program of a try."""
        problem, program = self._tasks[trial.number]
        if not trial.probes:
            return problem, program
        with_input = bool(problem.tests.stdio) or problem.language is Language.CPP
        return _KNOWN_GOOD[problem.language, with_input]

    def end(self, trial: Trial, grade: Grade) -> None:
        """Take the grade of a try."""
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
        """Take that the worker of a try failed."""
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
        """A grade for every task; INFRA_ERROR for those that have none."""
        late = Grade(Outcome.INFRA_ERROR, detail="no verdict in the time that a call may take")
        return [self._grades.get(number, late) for number in range(len(self._tasks))]
