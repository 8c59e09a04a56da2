"""Defines a panel: held-out problems with the same sampling seeds at every step."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from selfreg.run.records import Group, PanelScore, Problem
from selfreg.run.seeds import completion_seeds


@dataclass(frozen=True, slots=True)
class Panel:
    """N problems with n completions each, and the stream that their seeds come from."""

    problems: tuple[Problem, ...]
    samples: int
    seed: int
    stream: int

    def seeds(self) -> list[np.ndarray]:
        """Return uint32 [n] for each problem: the same at every step, so that scores are paired."""
        return [completion_seeds(self.seed, self.stream, p.id, self.samples) for p in self.problems]


def score(groups: Sequence[Group]) -> PanelScore:
    """Score graded groups, one a problem; unjudged completions are left out."""
    return PanelScore(
        problem_ids=tuple(group.problem.id for group in groups),
        pass_rates=np.array(
            [g.rewards.mean() if g.rollouts else np.nan for g in groups], np.float64
        ),
        samples=groups[0].size,
    )
