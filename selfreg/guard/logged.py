r"""Evidence from a training log: the mean reward of each step, without a panel.

Each step compares a block P of the last n rewards with a reference R of earlier rewards. Let Z be
R joined with (P + margin), X the rewards, and s a scale fixed by the rewards that precede R:

    log E = [-s sum_P (X + margin) - n log mean_Z exp(-s X)] / tau.

If the rewards of Z are exchangeable, then E with tau = 1 has a mean of at most 1. P is then a draw
without replacement from Z, and for such draws the mean of a product of exp(-s X) is at most the
product of the means (Maclaurin's inequality; Hoeffding, JASA 58 (1963), section 6). E falls as the
rewards of P rise, so the bound also holds for a policy that improves. E is a bounded form of the
permutation e-value of Koning, Post-hoc and anytime valid permutation and group invariance testing,
arXiv:2310.01153. The sum of weight x E over all blocks and steps never decreases and has a mean of
at most 1, so it reaches 1 / alpha with probability at most alpha (Markov's inequality).

Assumption: steps are independent, and identically distributed while the policy does not change.
Random draws of problems satisfy this. A curriculum, a fixed order and filtered data do not.
tau >= 1 tempers E where neighbouring steps are correlated. It is the variance of means of 8 steps
divided by the variance that single steps imply, estimated from differences between neighbours up to
the end of R and clipped to [1, 20]. With tau > 1 the guarantee is approximate; benchmarks.guard
measures the false alarm rate.
"""

import math

import numpy as np

from selfreg.guard.weights import over_time

WARMUP = 8  # the first steps only set the scale, and are never compared
SHORTEST = 4  # n = 4, 8, 16, ...
RATIOS = (4, 16, 64)  # largest length of R, as a multiple of n
LEAST_REFERENCE = 1  # smallest length of R, as a multiple of n
GAPS = (0, 1, 2, 4, 8, 16)  # distance between R and P, as a multiple of n
SCALES = (1.0, 1 / 3)
PLANNED_SHARE = 0.5
SCALE_STEPS = 64  # steps before R from which the scale is estimated
LEAST_VARIANCE = 1e-6
ALIKE, MOST_ALIKE = 8, 20.0  # steps in a mean for tau, and the largest tau
LEAST_STEPS = 32  # with fewer steps tau is 1


def gain(rewards: np.ndarray, margin: float, planned: int | None, alpha: float) -> float:
    """Return the sum of weight x E over the blocks that end at the last step.

    Args:
      rewards: float64 [t], mean reward of each step.
      margin: The largest fall in mean reward that does not count.
      planned: Steps of the whole run; None if unknown.
      alpha: Level of the alarm. It sets s to the scale at which E grows fastest near the alarm.
    """
    t, total = len(rewards), 0.0
    horizon = planned or t
    length, j = SHORTEST, 0
    while t >= WARMUP + (1 + LEAST_REFERENCE) * length:
        stride = max(1, length // 4)
        if t % stride == 0:
            omega = over_time(t // stride, planned and -(-planned // stride), PLANNED_SHARE)
            nats = math.log(8 * (horizon / stride) * (j + 1) * (j + 2) / alpha)
            share = omega / ((j + 1) * (j + 2)) / (len(GAPS) * len(RATIOS) * len(SCALES))
            total += share * _blocks(rewards, margin, length, nats)
        length, j = 2 * length, j + 1
    return total


def alikeness(rewards: np.ndarray) -> float:
    """Estimate tau: the variance of means of 8 steps over the variance that single steps imply.

    Args:
      rewards: float64 [t], mean reward of each step.

    Returns:
      tau in [1, 20]; 1 with fewer than 32 steps.
    """
    if len(rewards) < LEAST_STEPS:
        return 1.0
    sums = np.concatenate([[0.0], np.cumsum(rewards)])
    means = (sums[ALIKE:] - sums[:-ALIKE]) / ALIKE
    of_means = float(np.mean((means[ALIKE:] - means[:-ALIKE]) ** 2) / 2)
    ratio = ALIKE * of_means / max(_variance(rewards), LEAST_VARIANCE)
    return min(max(ratio, 1.0), MOST_ALIKE)


def _variance(values: np.ndarray) -> float:
    """Estimate the variance by half the mean squared difference of neighbours.

    A slow trend hardly changes this estimate.
    """
    return float(np.mean(np.diff(values) ** 2) / 2)


def _blocks(rewards: np.ndarray, margin: float, length: int, nats: float) -> float:
    """Sum E over the references, with P = the last `length` rewards."""
    t = len(rewards)
    present = rewards[t - length :] + margin
    total = 0.0
    for gap in GAPS:
        end = t - length - gap * length
        known = end - WARMUP
        if known < LEAST_REFERENCE * length:
            break
        tau = alikeness(rewards[WARMUP:end])
        for ratio in RATIOS:
            # A larger ratio that reaches no earlier step would repeat the same comparison.
            if ratio > RATIOS[0] and known <= ratio * length // 4:
                break
            start = max(end - ratio * length, WARMUP)
            sigma = math.sqrt(max(_variance(rewards[:start][-SCALE_STEPS - 1 :]), LEAST_VARIANCE))
            for scale in SCALES:
                s = scale * math.sqrt(2 * nats / length) / sigma
                value = log_e(rewards[start:end], present, s) / tau
                total += math.exp(min(value, 600.0))
    return total


def log_e(reference: np.ndarray, present: np.ndarray, s: float) -> float:
    """Return log E of one comparison, before the division by tau.

    Args:
      reference: float64 [r], rewards of R.
      present: float64 [n], rewards of P with the margin added.
      s: Scale, in 1 / reward.
    """
    both = np.concatenate([reference, present])
    low = both.min()
    mean = math.log(np.exp(-s * (both - low)).mean())
    return -s * len(present) * (float(present.mean()) - low) - len(present) * mean
