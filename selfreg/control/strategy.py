"""Strategies: what a search, or CARE, may change of the config's hyperparameters."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from selfreg.control.protocol import Base
from selfreg.run.records import Checkpoint, Plan

Space = Mapping[str, tuple[float, ...]]

# The paper's grid, section 5.5: lr {5e-7, 1e-6, 2e-6} x KL {0, 0.01, 0.05}. The learning rates are
# multiples of the config's, 1e-6 in the paper, so that the grid fits a tiny policy as well.
SEARCH: Space = {"lr_factor": (0.5, 1.0, 2.0), "kl_coef": (0.0, 0.01, 0.05)}

# Groups only shrink: what a larger one needs of the machine was not measured at the start.
FULL: Space = {
    **SEARCH,
    "budget_factor": (0.5, 1.0),
    "temperature_factor": (0.8, 1.0, 1.25),
    "group_factor": (0.5, 1.0),
}


@dataclass(frozen=True, slots=True)
class Strategy:
    """Changes of the hyperparameters; factors multiply the config's.

    Attributes:
      lr_factor: Of the learning rate.
      kl_coef: The weight of the KL penalty itself, in place of the config's.
      budget_factor: Of the budget.
      temperature_factor: Of the temperature of training samples.
      group_factor: Of the completions a problem.
    """

    lr_factor: float = 1.0
    kl_coef: float = 0.0
    budget_factor: float = 1.0
    temperature_factor: float = 1.0
    group_factor: float = 1.0


def base_strategy(base: Base) -> Strategy:
    """No change: the hyperparameters of the first campaign."""
    return Strategy(kl_coef=base.kl_coefs[0])


def order(
    base: Base,
    campaign: int,
    start: Checkpoint | None,
    strategy: Strategy,
    reason: str,
    *,
    action: str = "",
    most_steps: int | None = None,
) -> Plan:
    """The plan that applies a strategy.

    Args:
      base: What the strategy changes.
      campaign: From 0.
      start: The policy that the campaign starts from.
      strategy: What to change.
      reason: One line.
      action: A gate's.
      most_steps: Of a pilot; None: as many as the strategy says.
    """
    steps = max(1, round(base.budget_steps * strategy.budget_factor))
    heat, group = strategy.temperature_factor, round(base.group_size * strategy.group_factor)
    return base.plan(
        campaign,
        start,
        reason,
        lr=base.lr * strategy.lr_factor,
        kl_coef=strategy.kl_coef,
        budget_steps=steps if most_steps is None else min(steps, most_steps),
        temperature=None if heat == 1 else base.temperature * heat,
        # A group of one has nothing to be compared with.
        group_size=None if strategy.group_factor == 1 else max(min(2, base.group_size), group),
        action=action,
    )


def draw(space: Space, rng: np.random.Generator) -> Strategy:
    """A strategy of the space, each equally likely."""
    return Strategy(**{name: float(rng.choice(values)) for name, values in space.items()})


def shift(strategy: Strategy, space: Space, **steps: int) -> Strategy:
    """Move coordinates along their values, and no further than the first and the last.

    A value that is not of the space counts as the nearest one that is. Coordinates that the space
    lacks stay.
    """
    moved: dict[str, Any] = {}
    for name in steps.keys() & space.keys():
        values, now = space[name], getattr(strategy, name)
        nearest = min(range(len(values)), key=lambda i: abs(values[i] - now))
        moved[name] = values[min(max(nearest + steps[name], 0), len(values) - 1)]
    return replace(strategy, **moved)


def neighbour(strategy: Strategy, space: Space, rng: np.random.Generator) -> Strategy:
    """Each coordinate one value down, where it is, or one up, with equal chances."""
    return shift(strategy, space, **{name: int(rng.integers(-1, 2)) for name in space})


def halfway(strategy: Strategy, to: Strategy) -> Strategy:
    """The strategy in the middle: the learning rate by its geometric mean, all else by its mean."""
    a, b = asdict(strategy), asdict(to)
    middle = {name: (a[name] + b[name]) / 2 for name in a}
    return Strategy(**{**middle, "lr_factor": math.sqrt(strategy.lr_factor * to.lr_factor)})


def words(strategy: Strategy) -> str:
    """For a reason or a prompt, such as "lr x0.5, KL 0.01"."""
    changed = [f"lr x{strategy.lr_factor:g}", f"KL {strategy.kl_coef:g}"]
    for name in ("budget", "temperature", "group"):
        factor = getattr(strategy, f"{name}_factor")
        if factor != 1:
            changed.append(f"{name} x{factor:g}")
    return ", ".join(changed)
