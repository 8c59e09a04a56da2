"""From problems to graded groups: the part that training and evaluation share."""

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from selfreg import distributed
from selfreg.grading import GraderError, GraderPool, extract_program
from selfreg.records import Grade, Group, Outcome, Problem, Request, Sampling
from selfreg.rollout.engine import Engine


class Stopwatch:
    """Seconds by stage, under the names that metrics give them."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Add what happens inside to `time/<stage>_s`."""
        begun = time.perf_counter()
        yield
        self.seconds[f"time/{stage}_s"] += time.perf_counter() - begun


@dataclass(frozen=True)
class Sampler:
    """Draws completions and grades them.

    Attributes:
      engine: Draws, from the weights it was last given.
      pool: Grades; None in processes but the first, which take its grades.
      sampling: How completions are drawn.
      prompts: int32 token ids of every problem by its id.
    """

    engine: Engine
    pool: GraderPool | None
    sampling: Sampling
    prompts: Mapping[str, np.ndarray]

    def groups(
        self,
        problems: Sequence[Problem],
        seeds: Sequence[np.ndarray],
        watch: Stopwatch,
        temperature: float | None = None,
    ) -> list[Group]:
        """One group a problem, one graded completion a seed.

        Args:
          problems: What to solve.
          seeds: uint32 [G] for each problem.
          watch: Takes the seconds of "sample" and "grade".
          temperature: Of the softmax; None: that of `sampling`.

        Raises:
          GraderError: The grader failed, or a problem's tests are broken.
        """
        wanted = zip(problems, seeds, strict=True)
        sampling = self.sampling
        if temperature is not None:
            sampling = replace(sampling, temperature=temperature)
        with watch("sample"):
            requests = [Request(self.prompts[problem.id], own) for problem, own in wanted]
            drawn = self.engine.generate(requests, sampling)
        with watch("grade"):
            programs = [
                tuple(extract_program(rollout.text, problem) for rollout in rollouts)
                for problem, rollouts in zip(problems, drawn, strict=True)
            ]
            jobs = [
                (p, program) for p, own in zip(problems, programs, strict=True) for program in own
            ]
            grades = iter(_check(jobs, distributed.from_first(lambda: self._grade(jobs))))
        return [
            Group(problem, rollouts, tuple(p or "" for p in own), tuple(next(grades) for _ in own))
            for problem, rollouts, own in zip(problems, drawn, programs, strict=True)
        ]

    def _grade(self, jobs: Sequence[tuple[Problem, str | None]]) -> list[Grade]:
        if self.pool is None:
            raise RuntimeError("this process has no grader: only the first one grades")
        return self.pool.grade(jobs)


def _check(jobs: Sequence[tuple[Problem, str | None]], grades: Sequence[Grade]) -> Sequence[Grade]:
    for (problem, _), grade in zip(jobs, grades, strict=True):
        if grade.outcome is Outcome.TEST_ERROR:
            raise GraderError(
                f"the tests of {problem.id} are broken, so there is no reward: {grade.detail}. "
                "Take the problem out of its file"
            )
    return grades
