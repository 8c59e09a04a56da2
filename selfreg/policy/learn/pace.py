"""Coefficients of the update that adapt to measurements.

They are a pure function of the step records. A resumed run reads its records again and continues
with exactly the same coefficients, so checkpoints do not store them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

# Ziegler et al. 2019, arXiv:1909.08593, section 2.2: the bound on one measurement's relative error,
# and the controller's gain.
KL_ERROR, KL_GAIN = 0.2, 0.1
# A gradient's norm is compared with up to NORMS earlier norms, once there are FEWEST_NORMS of them.
NORMS, FEWEST_NORMS = 32, 8


@dataclass(frozen=True, slots=True)
class Pace:
    """The current coefficients of a campaign.

    Attributes:
      kl_factor: Factor on the configured weight of the KL penalty.
      entropy_coef: Weight of the entropy bonus while the entropy is at or below its target.
      entropy: The last measured entropy, in nats. None: not measured yet.
      norms: The latest gradient norms above 0, the newest last.
      skipped: The number of updates skipped so far.
    """

    kl_factor: float = 1.0
    entropy_coef: float = 0.0
    entropy: float | None = None
    norms: tuple[float, ...] = ()
    skipped: int = 0


def begin(learn: Any) -> Pace:
    """Return the pace before a campaign's first step, from the config's section `learn`."""
    return Pace(entropy_coef=learn.entropy_coef)


def observe(pace: Pace, metrics: Mapping[str, float], learn: Any) -> Pace:
    """Return the pace after an update with these metrics.

    KL target (Ziegler et al. 2019, arXiv:1909.08593, section 2.2): multiply the factor by
    1 + 0.1 clip(KL / kl_target - 1, -0.2, 0.2). KL is the metric k3_kl, in nats per token.

    Entropy target (He et al. 2025, Skywork-OR1, arXiv:2505.22312, section 3.2): raise the
    coefficient by entropy_step if the entropy is below its target, and lower it by entropy_step if
    it is above. The coefficient never falls below 0.

    Args:
      pace: The pace before the update.
      metrics: The metrics in the step's record.
      learn: The config's section `learn`.
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
    """Return the weight of the next update's entropy bonus: 0 while the entropy is above target."""
    if learn.entropy_target and pace.entropy is not None and pace.entropy > learn.entropy_target:
        return 0.0
    return pace.entropy_coef


def most_norm(pace: Pace, factor: float) -> float:
    """Return the norm of a gradient above which an update is skipped.

    The limit is `factor` times the median of the last 32 norms. These include the norms of skipped
    updates. So if gradients stay larger, they stop being outliers after half a window. The limit
    uses a median because a single outlier could raise a mean and a standard deviation enough to
    hide the next outlier.

    Args:
      pace: The pace before the update.
      factor: As config.optimizer.skip_norm_factor. 0: skip no update.

    Returns:
      The limit. It is infinite while there are fewer than 8 norms.
    """
    if not factor or len(pace.norms) < FEWEST_NORMS:
        return float("inf")
    return factor * median(pace.norms)
