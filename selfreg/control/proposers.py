"""Proposes the next strategy: by rules, at random, near the Pareto front, or by a language model.

A proposer is pure: the same situation gives the same proposals. Random draws depend on (seed,
campaign) alone.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from selfreg.control.history import MAIN
from selfreg.control.protocol import Base
from selfreg.control.strategy import (
    Space,
    Strategy,
    base_strategy,
    draw,
    neighbour,
    shift,
    words,
)
from selfreg.run import seeds
from selfreg.run.records import Answer

COLLAPSED_RATIO = 0.5  # below this ratio the rules become gentler
FRONT_CHANCE = 0.5  # the probability of a draw near the Pareto front rather than anywhere


@dataclass(frozen=True, slots=True)
class Tried:
    """A strategy that a campaign ran.

    Attributes:
      strategy: The strategy.
      outcome: Its results by name; more is better.
      ratio: r = end / peak of the control's metric.
    """

    strategy: Strategy
    outcome: Mapping[str, float]
    ratio: float


class Situation(NamedTuple):
    """The input of a proposer.

    Attributes:
      base: The config's hyperparameters.
      campaign: The campaign to propose for.
      space: The allowed values.
      tried: The strategies tried so far, in order; those remembered from other chains come first.
      outcome: A description of the results, in words.
      wanted: How many proposals are wanted; there may be fewer.
    """

    base: Base
    campaign: int
    space: Space
    tried: tuple[Tried, ...]
    outcome: str
    wanted: int = 1


class Proposer(NamedTuple):
    """Proposes strategies.

    Attributes:
      propose: Situation -> at least one strategy, best first, without a language model.
      ask: Situation -> the question to a language model, whose strategy replaces these; None where
        the proposer asks nobody.
    """

    propose: Callable[[Situation], tuple[Strategy, ...]]
    ask: Callable[[Situation], str] | None = None


def by_rules(situation: Situation) -> tuple[Strategy, ...]:
    """Propose one strategy from the last campaign.

    * If it collapsed (r < 0.5), or a capability fell by more than control.epsilon, be gentler: one
      value down in learning rate and budget, and one up in KL.
    * If "main" rose by less than control.epsilon, be bolder: one value up in learning rate and
      temperature.
    * Else propose the same strategy again.
    """
    if not situation.tried:
        return (base_strategy(situation.base),)
    last, epsilon = situation.tried[-1], situation.base.options["epsilon"]
    if last.ratio < COLLAPSED_RATIO or min(last.outcome.values()) < -epsilon:
        steps = {"lr_factor": -1, "kl_coef": 1, "budget_factor": -1}
    elif last.outcome[MAIN] < epsilon:
        steps = {"lr_factor": 1, "temperature_factor": 1}
    else:
        steps = {}
    return (shift(last.strategy, situation.space, **steps),)


def by_chance(situation: Situation) -> tuple[Strategy, ...]:
    """Draw uniformly from the space."""
    rng = _rng(situation)
    return tuple(draw(situation.space, rng) for _ in range(situation.wanted))


def by_front(situation: Situation) -> tuple[Strategy, ...]:
    """Draw neighbours of the Pareto front with probability 1/2, and uniformly otherwise."""
    rng = _rng(situation)
    names = sorted({name for tried in situation.tried for name in tried.outcome})
    outcomes = np.array([[t.outcome[name] for name in names] for t in situation.tried])
    front = [situation.tried[i].strategy for i in pareto_front(outcomes)]

    def one() -> Strategy:
        if front and rng.random() < FRONT_CHANCE:
            return neighbour(front[rng.integers(len(front))], situation.space, rng)
        return draw(situation.space, rng)

    return tuple(one() for _ in range(situation.wanted))


def pareto_front(outcomes: np.ndarray) -> list[int]:
    """Return the rows that no row dominates, by being as good in all columns and better in one.

    Args:
      outcomes: float [n, objectives], more is better.
    """
    return [
        i
        for i, row in enumerate(outcomes)
        if not any((other >= row).all() and (other > row).any() for other in outcomes)
    ]


def question(situation: Situation) -> str:
    """Write the prompt: the allowed settings, those tried so far, and the form of the answer."""
    base = situation.base
    tried = [
        f"{number}. {words(t.strategy)} -> "
        + ", ".join(f"{name} {value:.3f}" for name, value in t.outcome.items())
        for number, t in enumerate(situation.tried, 1)
    ]
    example = {name: values[0] for name, values in situation.space.items()}
    return "\n".join(
        [
            "You tune reinforcement learning of a language model that writes programs. Training",
            "runs in campaigns; pass@1 rises, and often collapses before a campaign ends.",
            f"Base settings: learning rate {base.lr:g}, {base.budget_steps} updates a campaign,",
            f"temperature {base.temperature:g}, {base.group_size} completions a problem.",
            f"Campaigns so far, oldest first, each with {situation.outcome}:",
            *(tried or ["none"]),
            f"Choose the settings of campaign {situation.campaign + 1}. Allowed values, where a",
            "factor multiplies a base setting and kl_coef is the weight of the KL penalty:",
            *(f"{name}: {', '.join(map(str, v))}" for name, v in situation.space.items()),
            "Answer with one JSON object that has exactly these keys, and nothing else: no words,",
            f"no code fence. For example: {json.dumps(example)}",
        ]
    )


def read_answer(answer: Answer, space: Space) -> Strategy:
    """Read the strategy in an answer.

    Raises:
      ValueError: There is no answer, or it is of no use; see read_strategy.
    """
    if answer.error:
        raise ValueError(answer.error)
    return read_strategy(answer.text, space)


def read_strategy(text: str, space: Space) -> Strategy:
    """Read the strategy that a language model chose.

    Args:
      text: One JSON object with every key of the space, each with one of its values.
      space: The allowed values.

    Raises:
      ValueError: The text is anything else; the message says what.
    """
    try:
        answer = json.loads(text, object_pairs_hook=_no_key_twice)
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None
    if not isinstance(answer, dict):
        raise ValueError(f"{type(answer).__name__}, not an object")
    if answer.keys() != space.keys():
        raise ValueError(f"keys {sorted(answer)}, not {sorted(space)}")
    for name, value in answer.items():
        # True == 1 in Python, and is no number in JSON.
        if isinstance(value, bool) or value not in space[name]:
            raise ValueError(f"{name}={value!r} is not one of {space[name]}")
    return Strategy(**{name: float(value) for name, value in answer.items()})


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a repeated key: JSON does not say which of the two counts."""
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("a key twice")
    return dict(pairs)


def _rng(situation: Situation) -> np.random.Generator:
    return seeds.generator(situation.base.seed, seeds.CONTROL, situation.campaign)


RULES, RANDOM, PARETO = Proposer(by_rules), Proposer(by_chance), Proposer(by_front)

# By the name in config.control.proposer. If the model gives no usable answer, the rules decide.
PROPOSERS = {
    "rules": RULES,
    "random": RANDOM,
    "pareto": PARETO,
    "llm": Proposer(by_rules, question),
}
