"""Draws and grades the samples that a step learns from, and replaces those that teach nothing."""

from collections.abc import Sequence
from typing import NamedTuple

from selfreg.loop.sample import Stopwatch
from selfreg.loop.stages import Stages
from selfreg.run import seeds
from selfreg.run.records import Group, Plan, Problem


class Drawn(NamedTuple):
    """The graded groups of one step.

    Attributes:
      first: The first groups, one a problem. They are an unbiased sample of the policy.
      redrawn: The groups that replaced others, in order; none without config.rollout.redraws.
      learned: The groups to learn from, as many as `first`.
    """

    first: Sequence[Group]
    redrawn: Sequence[Group]
    learned: Sequence[Group]

    @property
    def cost(self) -> dict[str, float]:
        """The number of samples that the step drew and of groups that have signal, as metrics."""
        return {
            "rollout/drawn_completions": float(
                sum(group.size for group in (*self.first, *self.redrawn))
            ),
            "rollout/redrawn_groups": float(len(self.redrawn)),
            "rollout/groups_with_signal": float(sum(group.has_signal for group in self.learned)),
        }


def draw(stages: Stages, plan: Plan, campaign: int, step: int, stopwatch: Stopwatch) -> Drawn:
    """Sample and grade this step's problems.

    Dynamic sampling (DAPO, Yu et al. 2025, arXiv:2503.14476, section 3.2) replaces a group whose
    rewards are all alike by a group of another problem. A step does so in up to
    config.rollout.redraws rounds. A round draws one new problem for each group to be replaced, and
    no problem twice in a step. It ends early when the training set has no more problems. Groups
    without signal after the last round stay.
    """
    rollout, train = stages.config.rollout, stages.sets.of_campaign(campaign)
    chosen = _choose(stages, campaign, step, range(len(train)), rollout.problems_per_step)
    problems = [train[i] for i in chosen]
    first = _sample(stages, problems, plan, campaign, step, "train", stopwatch)
    learned, redrawn, seen = list(first), [], set(chosen)
    for attempt in range(1, rollout.redraws + 1):
        places = [i for i, group in enumerate(learned) if not group.has_signal]
        unseen = [i for i in range(len(train)) if i not in seen]
        places = places[: len(unseen)]
        if not places:
            break
        chosen = _choose(stages, campaign, step, unseen, len(places), attempt)
        seen.update(chosen)
        problems = [train[i] for i in chosen]
        anew = _sample(stages, problems, plan, campaign, step, "redrawn", stopwatch)
        redrawn += anew
        for place, group in zip(places, anew, strict=True):
            learned[place] = group
    return Drawn(first, redrawn, learned)


def _choose(
    stages: Stages, campaign: int, step: int, among: Sequence[int], count: int, *attempt: int
) -> list[int]:
    generator = seeds.generator(stages.config.seed, seeds.CHOICE, campaign, step, *attempt)
    return [among[i] for i in generator.choice(len(among), count, replace=False)]


def _sample(
    stages: Stages,
    problems: Sequence[Problem],
    plan: Plan,
    campaign: int,
    step: int,
    stream: str,
    stopwatch: Stopwatch,
) -> list[Group]:
    size = plan.group_size or stages.config.rollout.group_size
    drawn = [
        seeds.completion_seeds(stages.config.seed, seeds.TRAIN, p.id, size, campaign, step)
        for p in problems
    ]
    set_aside = stages.log.set_aside(campaign, step, stream)
    return stages.sampler.groups(problems, drawn, stopwatch, plan.temperature, set_aside)
