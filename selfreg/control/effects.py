"""Keeps CARE's memory: the effect of each campaign's strategy on the capabilities.

The paper's appendix D.1 and D.3 define its entries (strategy, context, delta, boundary, confidence)
and their revision. Vectors are stored by the capabilities' names, so that people can read
memory.json.

This module corrects slips of the paper, as selfreg.control.posterior does:

* Boundary: cone(phi(x), phi(x_regressed)) needs two contexts, but the text regresses in x itself;
  and above two dimensions two vectors span a cone of measure zero. Here the cone opens by
  control.cone_degrees around a ray. The ray starts at the nearest context in which the strategy did
  no harm, or at the origin, and goes through the context in which the strategy regressed.
* Confidence: the formula may give a negative value, but gamma is in [0, 1]. The value is clipped.
* Noise: sigma_surprise^2 should be proportional to the prediction error. A variance has the unit of
  a squared error, so it is control.surprise_factor times the mean squared error over capabilities.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from selfreg.control import posterior
from selfreg.control.strategy import Strategy

Vector = Mapping[str, float]  # by the capabilities' names, in their order

_EPSILON_0 = 1e-3  # keeps the confidence finite where nothing changed


@dataclass(frozen=True, slots=True)
class Cone:
    """The contexts in which a strategy is not trusted: from `apex` through `regressed`, and on."""

    apex: Vector
    regressed: Vector


@dataclass(frozen=True, slots=True)
class Effect:
    """One entry of the memory: a finished campaign.

    Attributes:
      campaign: Its number in its own chain, from 0.
      strategy: The proposed strategy; the action may have shortened or softened it.
      action: The gate's action; "" for a first campaign.
      reason: The reason in the plan.
      context: The capabilities of the policy that the campaign started from.
      delta: The change of these: the policy that rolls forward (the peak) minus the start.
      predicted: The predicted change.
      predicted_sd: The standard deviation of the prediction.
      regression_probability: p_max, the largest predicted over the protected capabilities.
      distance_squared: The squared Mahalanobis distance of `delta` from `predicted`.
      variance: The noise variance of this observation in the posterior.
      cone: The contexts that this campaign ruled out for the strategy; None for no contexts.
      confidence: gamma, the strategy's confidence after this campaign.
      ratio: r = end / peak of the control's metric.
      revision: The revision after a surprise; "" where there was none.
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
    """Read an entry of memory.json."""
    cone = Cone(**row["cone"]) if row["cone"] else None
    return Effect(**{**row, "strategy": Strategy(**row["strategy"]), "cone": cone})


def array(vector: Vector) -> np.ndarray:
    """Return a vector as float64 [K]."""
    return np.array(list(vector.values()), np.float64)


def named(names: Sequence[str], values: np.ndarray) -> dict[str, float]:
    """Name values [K]."""
    return {name: float(value) for name, value in zip(names, values, strict=True)}


def of_strategy(effects: Sequence[Effect], strategy: Strategy) -> list[Effect]:
    """Select the entries of one strategy."""
    return [effect for effect in effects if effect.strategy == strategy]


def predict(
    own: Sequence[Effect], context: Vector, noise_sd: float, prior_sd: float
) -> posterior.Prediction:
    """Predict the effect of a strategy in a context from its own entries."""
    k = len(context)
    learned = posterior.fit(
        np.array([array(e.context) for e in own]).reshape(-1, k),
        np.array([array(e.delta) for e in own]).reshape(-1, k),
        np.array([e.variance for e in own]),
        prior_sd,
    )
    return posterior.predict(learned, array(context), noise_sd)


def confidence(deltas: np.ndarray, predictions: np.ndarray) -> float:
    """Rate how well a strategy's effects were predicted, in [0, 1].

    gamma = 1 - mean_i ||delta_i - predicted_i||^2 / (||delta_i||^2 + epsilon_0), clipped.

    Args:
      deltas: [n, K], the effects of one strategy; n is at least 1.
      predictions: [n, K], the predictions made before each campaign. A fit to the same observations
        would look better than it is.
    """
    errors = np.sum((deltas - predictions) ** 2, axis=1)
    size = np.sum(deltas**2, axis=1) + _EPSILON_0
    return float(np.clip(1 - np.mean(errors / size), 0, 1))


def distance(own: Sequence[Effect], context: Vector) -> float:
    """Return the Euclidean distance to the nearest context of the strategy; inf without one."""
    apart = (np.linalg.norm(array(e.context) - array(context)) for e in own)
    return float(min(apart, default=math.inf))


def cone_of(own: Sequence[Effect], context: Vector, harmless: Sequence[bool]) -> Cone:
    """Make the cone that a regression in `context` rules out.

    Args:
      own: The strategy's earlier entries.
      context: The context of the regression.
      harmless: Whether each of these entries left all protected capabilities unharmed.
    """
    safe = [effect.context for effect, ok in zip(own, harmless, strict=True) if ok]
    nearest = min(
        safe,
        key=lambda x: float(np.linalg.norm(array(x) - array(context))),
        default=dict.fromkeys(context, 0.0),
    )
    return Cone(nearest, context)


def is_inside(own: Sequence[Effect], context: Vector, cone_degrees: float) -> bool:
    """Return the boundary predicate b(x): whether no cone of the strategy holds the context."""
    return not any(e.cone and _holds(e.cone, array(context), cone_degrees) for e in own)


def _holds(cone: Cone, x: np.ndarray, degrees: float) -> bool:
    apex = array(cone.apex)
    axis, ray = array(cone.regressed) - apex, x - apex
    lengths = np.linalg.norm(axis) * np.linalg.norm(ray)
    if lengths == 0:  # x is the apex, or the cone is one point
        return bool((x == array(cone.regressed)).all())
    return bool(axis @ ray / lengths >= math.cos(math.radians(degrees)))
