"""Defines strategies: the changes of hyperparameters that a search or CARE may make."""

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

# Groups only shrink: the start of a run does not check whether a larger group fits in memory.
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
      lr_factor: Multiplies the learning rate.
      kl_coef: Replaces the weight of the KL penalty; it is no factor.
      budget_factor: Multiplies the budget.
      temperature_factor: Multiplies the temperature of training samples.
      group_factor: Multiplies the completions a problem.
    """

    lr_factor: float = 1.0
    kl_coef: float = 0.0
    budget_factor: float = 1.0
    temperature_factor: float = 1.0
    group_factor: float = 1.0


def base_strategy(base: Base) -> Strategy:
    """Return the strategy that changes nothing: the hyperparameters of the first campaign."""
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
    """Make the plan that applies a strategy.

    Args:
      base: The config's hyperparameters.
      campaign: From 0.
      start: The policy that the campaign starts from.
      strategy: The changes.
      reason: One line for people.
      action: The action of a gate; "" without one.
      most_steps: The limit of a pilot; None for as many steps as the strategy says.
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
        # Two at least: a group of one has nothing to compare with.
        group_size=None if strategy.group_factor == 1 else max(min(2, base.group_size), group),
        action=action,
    )


def draw(space: Space, rng: np.random.Generator) -> Strategy:
    """Draw a strategy of the space; all are equally likely."""
    return Strategy(**{name: float(rng.choice(values)) for name, values in space.items()})


def shift(strategy: Strategy, space: Space, **steps: int) -> Strategy:
    """Move coordinates along their values, and no further than the first and the last.

    A value outside of the space counts as the nearest value in it. Coordinates that the space lacks
    stay as they are.
    """
    moved: dict[str, Any] = {}
    for name in steps.keys() & space.keys():
        values, now = space[name], getattr(strategy, name)
        nearest = min(range(len(values)), key=lambda i: abs(values[i] - now))
        moved[name] = values[min(max(nearest + steps[name], 0), len(values) - 1)]
    return replace(strategy, **moved)


def neighbour(strategy: Strategy, space: Space, rng: np.random.Generator) -> Strategy:
    """Move each coordinate one value down, not at all, or one value up, with equal chances."""
    return shift(strategy, space, **{name: int(rng.integers(-1, 2)) for name in space})


def halfway(strategy: Strategy, to: Strategy) -> Strategy:
    """Average two strategies: geometrically in the learning rate, arithmetically in the rest."""
    a, b = asdict(strategy), asdict(to)
    middle = {name: (a[name] + b[name]) / 2 for name in a}
    return Strategy(**{**middle, "lr_factor": math.sqrt(strategy.lr_factor * to.lr_factor)})


def words(strategy: Strategy) -> str:
    """Describe a strategy for a reason or a prompt, such as "lr x0.5, KL 0.01"."""
    changed = [f"lr x{strategy.lr_factor:g}", f"KL {strategy.kl_coef:g}"]
    for name in ("budget", "temperature", "group"):
        factor = getattr(strategy, f"{name}_factor")
        if factor != 1:
            changed.append(f"{name} x{factor:g}")
    return ", ".join(changed)
