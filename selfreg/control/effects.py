"""CARE's memory: what each campaign's strategy did to the capabilities, and what follows from it.

The paper's appendix D.1 and D.3: entries (strategy, context, delta, boundary, confidence), and
their revision. Vectors are kept by the capabilities' names, so that memory.json can be read.

Slips of the paper that are mended here, beside those of selfreg.control.posterior:

* Boundary: cone(phi(x), phi(x_regressed)) speaks of two contexts, while the text regresses in x
  itself, and two vectors span a cone of measure zero above two dimensions. Here the cone opens by
  control.cone_degrees around the ray from the nearest context in which the strategy did no harm
  (the origin, where none is known) through the one in which it regressed.
* Confidence: the formula's value may be negative, while gamma is in [0, 1]: it is clipped.
* Noise: sigma_surprise^2 is to be proportional to the prediction error. A variance has the unit of
  a squared error: it is control.surprise_factor times the mean squared error over capabilities.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from selfreg.control import posterior
from selfreg.control.strategy import Strategy

Vector = Mapping[str, float]  # by the capabilities' names, in their order

_EPSILON_0 = 1e-3  # of the confidence: keeps it finite where nothing changed


@dataclass(frozen=True, slots=True)
class Cone:
    """Contexts that a strategy is no longer trusted in: from `apex` towards `regressed`, and on."""

    apex: Vector
    regressed: Vector


@dataclass(frozen=True, slots=True)
class Effect:
    """One entry of the memory: a finished campaign.

    Attributes:
      campaign: Of its own chain, from 0.
      strategy: What was proposed; an action may have shortened or softened it.
      action: What the gate decided; "" for a first campaign.
      reason: Why it was ordered.
      context: The capabilities of the policy that the campaign started from.
      delta: What it did to them: the policy that rolls forward (the peak) minus the start.
      predicted: What it was predicted to do.
      predicted_sd: The standard deviation of that.
      regression_probability: p_max, the largest of the protected capabilities, as predicted.
      distance_squared: Mahalanobis, of delta from predicted.
      variance: The noise variance that the posterior takes this observation with.
      cone: What it took from the strategy's boundary; None: nothing.
      confidence: gamma of the strategy after it.
      ratio: r = end / peak of the control's metric.
      revision: What was revised; "": nothing.
    """

    campaign: int
    strategy: Strategy
    action: str
    reason: str
    context: Vector
    delta: Vector
    predicted: Vector
    predicted_sd: Vector
    regression_probability: float
    distance_squared: float
    variance: float
    cone: Cone | None
    confidence: float
    ratio: float
    revision: str = ""


def read_effect(row: Mapping[str, Any]) -> Effect:
    """An entry as memory.json holds it."""
    cone = Cone(**row["cone"]) if row["cone"] else None
    return Effect(**{**row, "strategy": Strategy(**row["strategy"]), "cone": cone})


def array(vector: Vector) -> np.ndarray:
    """float64 [K]."""
    return np.array(list(vector.values()), np.float64)


def named(names: Sequence[str], values: np.ndarray) -> dict[str, float]:
    """Values [K] by name."""
    return {name: float(value) for name, value in zip(names, values, strict=True)}


def of_strategy(effects: Sequence[Effect], strategy: Strategy) -> list[Effect]:
    """The entries of one strategy."""
    return [effect for effect in effects if effect.strategy == strategy]


def predict(
    own: Sequence[Effect], context: Vector, noise_sd: float, prior_sd: float
) -> posterior.Prediction:
    """What a strategy will do in a context, by its own entries."""
    k = len(context)
    learned = posterior.fit(
        np.array([array(e.context) for e in own]).reshape(-1, k),
        np.array([array(e.delta) for e in own]).reshape(-1, k),
        np.array([e.variance for e in own]),
        prior_sd,
    )
    return posterior.predict(learned, array(context), noise_sd)


def confidence(deltas: np.ndarray, predictions: np.ndarray) -> float:
    """How well a strategy's effects were foretold, in [0, 1].

    gamma = 1 - mean_i ||delta_i - predicted_i||^2 / (||delta_i||^2 + epsilon_0), clipped.

    Args:
      deltas: [n, K], what one strategy did; n at least 1.
      predictions: [n, K], what it was predicted to do each time, before it was run: a fit to the
        same observations would praise itself.
    """
    errors = np.sum((deltas - predictions) ** 2, axis=1)
    size = np.sum(deltas**2, axis=1) + _EPSILON_0
    return float(np.clip(1 - np.mean(errors / size), 0, 1))


def distance(own: Sequence[Effect], context: Vector) -> float:
    """Euclidean distance to the nearest context that the strategy was run in; inf where none."""
    apart = (np.linalg.norm(array(e.context) - array(context)) for e in own)
    return float(min(apart, default=math.inf))


def cone_of(own: Sequence[Effect], context: Vector, harmless: Sequence[bool]) -> Cone:
    """The cone that a regression in `context` cuts off.

    Args:
      own: The strategy's earlier entries.
      context: Where it regressed.
      harmless: Which of these entries regressed nothing that is protected.
    """
    safe = [effect.context for effect, ok in zip(own, harmless, strict=True) if ok]
    nearest = min(
        safe,
        key=lambda x: float(np.linalg.norm(array(x) - array(context))),
        default=dict.fromkeys(context, 0.0),
    )
    return Cone(nearest, context)


def is_inside(own: Sequence[Effect], context: Vector, cone_degrees: float) -> bool:
    """The boundary predicate b(x): no cone of the strategy holds the context."""
    return not any(e.cone and _holds(e.cone, array(context), cone_degrees) for e in own)


def _holds(cone: Cone, x: np.ndarray, degrees: float) -> bool:
    apex = array(cone.apex)
    axis, ray = array(cone.regressed) - apex, x - apex
    lengths = np.linalg.norm(axis) * np.linalg.norm(ray)
    if lengths == 0:  # at the apex, or a cone that is one point
        return bool((x == array(cone.regressed)).all())
    return bool(axis @ ray / lengths >= math.cos(math.radians(degrees)))
