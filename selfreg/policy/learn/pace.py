"""Coefficients of the update that follow what was measured.

Pure, and a function of step records alone: a run that is resumed reads its records again and goes
on with the very same coefficients. Nothing of it is in a checkpoint.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

# Ziegler et al. 2019, arXiv:1909.08593, section 2.2: the most by which one measurement counts as
# off its target, and the gain.
KL_ERROR, KL_GAIN = 0.2, 0.1
# A gradient's norm is judged by this many before it, once there are so many.
NORMS, FEWEST_NORMS = 32, 8


@dataclass(frozen=True, slots=True)
class Pace:
    """Where the coefficients of a campaign stand.

    Attributes:
      kl_factor: Times the weight of the KL penalty that was ordered.
      entropy_coef: Weight of the entropy bonus, as long as the entropy is at or below its target.
      entropy: In nats, last measured; None: not yet.
      norms: The last norms of gradients above 0, the latest last.
      skipped: Updates skipped so far.
    """

    kl_factor: float = 1.0
    entropy_coef: float = 0.0
    entropy: float | None = None
    norms: tuple[float, ...] = ()
    skipped: int = 0


def begin(learn: Any) -> Pace:
    """Before the first step of a campaign: the section `learn` of a config."""
    return Pace(entropy_coef=learn.entropy_coef)


def observe(pace: Pace, metrics: Mapping[str, float], learn: Any) -> Pace:
    """After an update.

    KL held at a target (Ziegler et al. 2019, arXiv:1909.08593, section 2.2): the factor is
    multiplied by 1 + 0.1 clip(KL / kl_target - 1, -0.2, 0.2), KL being k3_kl, nats a token.

    Entropy held at a target (He et al. 2025, Skywork-OR1, arXiv:2505.22312, section 3.2): the
    coefficient rises by entropy_step where the entropy is below its target, and falls by it where
    it is above, not below 0.

    Args:
      pace: Before.
      metrics: Of the step's record.
      learn: The config's section.
    """
    if learn.kl_target and "k3_kl" in metrics:
        error = max(-KL_ERROR, min(KL_ERROR, metrics["k3_kl"] / learn.kl_target - 1))
        pace = replace(pace, kl_factor=pace.kl_factor * (1 + KL_GAIN * error))
    if learn.entropy_target and "entropy" in metrics:
        entropy = metrics["entropy"]
        way = (entropy < learn.entropy_target) - (entropy > learn.entropy_target)
        coef = max(0.0, pace.entropy_coef + way * learn.entropy_step)
        pace = replace(pace, entropy_coef=coef, entropy=entropy)
    if metrics.get("grad_norm"):
        pace = replace(pace, norms=(*pace.norms, metrics["grad_norm"])[-NORMS:])
    return replace(pace, skipped=pace.skipped + round(metrics.get("update_skipped", 0.0)))


def entropy_coef(pace: Pace, learn: Any) -> float:
    """The weight of the next update's entropy bonus: 0 as long as the entropy is above target."""
    if learn.entropy_target and pace.entropy is not None and pace.entropy > learn.entropy_target:
        return 0.0
    return pace.entropy_coef


def most_norm(pace: Pace, factor: float) -> float:
    """The norm of a gradient above which an update is skipped.

    `factor` times the median of the last 32 norms, skipped updates' among them: should gradients
    be larger for good, half a window later they are no outliers any more. A median, because one
    outlier moves a mean and a standard deviation by as much as it takes to hide the next.

    Args:
      pace: Before the update.
      factor: As config.optimizer.skip_norm_factor; 0: nothing is skipped.

    Returns:
      Infinity before there are 8 norms.
    """
    if not factor or len(pace.norms) < FEWEST_NORMS:
        return float("inf")
    return factor * median(pace.norms)
