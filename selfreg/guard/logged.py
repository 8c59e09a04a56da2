r"""Evidence from a log alone: the mean reward of each training step.

Each step compares a block P of the last n rewards with a reference R of earlier ones. With
Z = R and (P + margin) together, rewards X, and a scale s fixed by what came before R,

    log E = [-s sum_P (X + margin) - n log mean_Z exp(-s X)] / tau.

If the rewards of Z are exchangeable, E with tau = 1 has a mean of at most 1: P is then a draw
without replacement from Z, for which the mean of a product of exp(-s X) is at most the product of
the means (Maclaurin's inequality; Hoeffding, JASA 58 (1963), section 6). It falls as rewards of P
rise, so that a policy that improves is covered. E is a bounded form of the permutation e-value of
Koning, Post-hoc and anytime valid permutation and group invariance testing, arXiv:2310.01153. The
sum of weight x E over all blocks and steps only grows and has a mean of at most 1: it reaches
1 / alpha with a probability of at most alpha (Markov).

Assumption: steps are independent, and equally distributed while the policy stands still.
Problems drawn at random are; a curriculum, a fixed order or filtered data are not. tau >= 1
tempers E where neighbouring steps are alike: it is the variance of means of 8 steps over what
single steps imply, from differences of neighbours up to the end of R, within [1, 20]. With it, E is
approximate; benchmarks.guard shows what it does.
"""

import math

import numpy as np

from selfreg.guard.weights import over_time

WARMUP = 8  # first steps, which are never compared: a scale needs something to be measured by
SHORTEST = 4  # n = 4, 8, 16, ...
RATIOS = (4, 16, 64)  # most steps of R over n
LEAST_REFERENCE = 1  # least ditto
GAPS = (0, 1, 2, 4, 8, 16)  # steps between R and P, in n
SCALES = (1.0, 1 / 3)
PLANNED_SHARE = 0.5
SCALE_STEPS = 64  # before R, that its scale is measured by
LEAST_VARIANCE = 1e-6
ALIKE, MOST_ALIKE = 8, 20.0  # steps in a mean for tau, and the largest tau
LEAST_STEPS = 32  # that tau needs


def gain(rewards: np.ndarray, margin: float, planned: int | None, alpha: float) -> float:
    """The sum of weight x E over the blocks that end at the last step.

    Args:
      rewards: float64 [t], mean reward of each step.
      margin: What is no fall yet.
      planned: Steps of the whole run; None: unknown.
      alpha: Of the alarm; it sets the scale s at which E grows fastest at the alarm.
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
    """tau: variance of means of 8 steps over what single steps imply; 1 where there are too few."""
    if len(rewards) < LEAST_STEPS:
        return 1.0
    sums = np.concatenate([[0.0], np.cumsum(rewards)])
    means = (sums[ALIKE:] - sums[:-ALIKE]) / ALIKE
    of_means = float(np.mean((means[ALIKE:] - means[:-ALIKE]) ** 2) / 2)
    ratio = ALIKE * of_means / max(_variance(rewards), LEAST_VARIANCE)
    return min(max(ratio, 1.0), MOST_ALIKE)


def _variance(values: np.ndarray) -> float:
    """Half the mean squared difference of neighbours, which a trend hardly touches."""
    return float(np.mean(np.diff(values) ** 2) / 2)


def _blocks(rewards: np.ndarray, margin: float, length: int, nats: float) -> float:
    """The sum of E over references, for P = the last `length` rewards."""
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
            # A larger ratio that reaches no further than a smaller one would repeat it.
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
    """Log E of one comparison, before tau.

    Args:
      reference: float64 [r], rewards of R.
      present: float64 [n], rewards of P, margin added.
      s: Scale, one over the unit of the rewards.
    """
    both = np.concatenate([reference, present])
    low = both.min()
    mean = math.log(np.exp(-s * (both - low)).mean())
    return -s * len(present) * (float(present.mean()) - low) - len(present) * mean
