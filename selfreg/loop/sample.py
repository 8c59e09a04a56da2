"""Turns problems into graded groups, for training and for evaluation."""

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from selfreg.grading import GraderError, GraderPool, extract_program
from selfreg.policy import distributed
from selfreg.policy.rollout.engine import Engine
from selfreg.run.records import (
    Grade,
    Group,
    Outcome,
    Problem,
    Request,
    Rollout,
    Sampling,
    Unjudged,
)


class Stopwatch:
    """Measures the seconds of each stage, by the name of their metric."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Add the seconds of the block to `time/<stage>_s`."""
        begun = time.perf_counter()
        yield
        self.seconds[f"time/{stage}_s"] += time.perf_counter() - begun


@dataclass(frozen=True)
class Sampler:
    """Draws completions and grades them.

    Attributes:
      engine: Draws completions from the weights that it was last given.
      pool: Grades them; None in every process but the first, which grades for all.
      sampling: The sampling settings.
      prompts: int32 token ids of every problem, by the problem's id.
      max_unjudged_share: The largest share of one call's completions that may have no verdict. One
        completion always may, unless this is 0.
      code_block: The code of a completion that is graded: see `extract_program`.
    """

    engine: Engine
    pool: GraderPool | None
    sampling: Sampling
    prompts: Mapping[str, np.ndarray]
    max_unjudged_share: float = 0.0
    code_block: str = "last"

    def groups(
        self,
        problems: Sequence[Problem],
        seeds: Sequence[np.ndarray],
        stopwatch: Stopwatch,
        temperature: float | None = None,
        set_aside: frozenset[tuple[str, str]] = frozenset(),
    ) -> list[Group]:
        """Draw and grade one group a problem, with one completion a seed.

        Args:
          problems: The problems to solve.
          seeds: uint32 [G] for each problem.
          stopwatch: Takes the seconds of "sample" and "grade".
          temperature: The temperature of the softmax; None for that of `sampling`.
          set_aside: Problem ids and programs that get no verdict and are not graded.

        Returns:
          The groups, in the order of the problems.

        Raises:
          GraderError: The grader failed: too many completions have no verdict.
        """
        wanted = zip(problems, seeds, strict=True)
        sampling = self.sampling
        if temperature is not None:
            sampling = replace(sampling, temperature=temperature)
        with stopwatch("sample"):
            requests = [Request(self.prompts[problem.id], own) for problem, own in wanted]
            drawn = self.engine.generate(requests, sampling)
        with stopwatch("grade"):
            programs = [
                tuple(extract_program(r.text, problem, self.code_block) for r in rollouts)
                for problem, rollouts in zip(problems, drawn, strict=True)
            ]
            jobs = [
                (p, program) for p, own in zip(problems, programs, strict=True) for program in own
            ]
            grades = iter(distributed.from_first(lambda: self._grade(jobs, set_aside)))
        return [
            _group(problem, rollouts, own, [next(grades) for _ in own])
            for problem, rollouts, own in zip(problems, drawn, programs, strict=True)
        ]

    def _grade(
        self, jobs: Sequence[tuple[Problem, str | None]], set_aside: frozenset[tuple[str, str]]
    ) -> list[Grade]:
        if self.pool is None:
            raise RuntimeError("this process has no grader: only the first one grades")
        left = [job for job in jobs if (job[0].id, job[1]) not in set_aside]
        graded = iter(self.pool.grade(left))
        known = Grade(Outcome.INFRA_ERROR, detail="set aside before")
        grades = [known if (p.id, text) in set_aside else next(graded) for p, text in jobs]
        _check(jobs, grades, self.max_unjudged_share)
        return grades


def _check(
    jobs: Sequence[tuple[Problem, str | None]], grades: Sequence[Grade], most_share: float
) -> None:
    """Raise GraderError when too many completions have no verdict."""
    pairs = zip(jobs, grades, strict=True)
    without = [(problem, grade) for (problem, _), grade in pairs if not grade.is_verdict]
    most = max(1, int(most_share * len(jobs))) if most_share else 0
    if len(without) > most:
        reasons = {f"{p.id}: {g.outcome.value}, {g.detail}": None for p, g in without}
        raise GraderError(
            f"{len(without)} of {len(jobs)} completions have no verdict, more than the {most} of "
            f"config.grading.max_unjudged_share={most_share:g} ({'; '.join(list(reasons)[:3])}). "
            "A test_error is the problem's: take it out of its file. An infra_error is the "
            "machine's: `python -m selfreg.grading.doctor` examines it"
        )


def _group(
    problem: Problem,
    rollouts: Sequence[Rollout],
    programs: Sequence[str | None],
    grades: Sequence[Grade],
) -> Group:
    rows = [(r, p or "", g) for r, p, g in zip(rollouts, programs, grades, strict=True)]
    judged = [row for row in rows if row[2].is_verdict]
    return Group(
        problem,
        tuple(rollout for rollout, _, _ in judged),
        tuple(program for _, program, _ in judged),
        tuple(grade for _, _, grade in judged),
        tuple(Unjudged(*row) for row in rows if not row[2].is_verdict),
    )
