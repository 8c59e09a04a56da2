"""Every objective, as a loss a token. The batch's loss is sum(token_weights * token loss)."""

import jax
import jax.numpy as jnp

Array = jax.Array


def policy_gradient(
    logprobs: Array,
    log_ratio: Array | None,
    advantages: Array,
    *,
    ratio_cap: float = 0.0,
    clip_low: float = 0.0,
    clip_high: float = 0.0,
    dual_clip: float = 0.0,
) -> Array:
    """The policy-gradient loss of each token.

    Without a ratio, REINFORCE (Williams 1992): -A log pi(token). With r = pi / mu, mu the sampler,
    the importance-weighted surrogate: -A r. On the sampler's own policy the two have the same
    gradient; they part when the policy has moved since it sampled, or when the sampler computes
    otherwise.

    Clipped, PPO (Schulman et al. 2017, arXiv:1707.06347, eq. 7):
    -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A), which gives no reason to move further than
    that; with clip_high above clip_low DAPO's clip-higher (Yu et al. 2025, arXiv:2503.14476).

    Dual-clipped (Ye et al. 2020, arXiv:1912.09729, eq. 5): where A < 0 the loss is at most
    -dual_clip A, so that a token which the policy has come to prefer by far more than the sampler
    did, and which is bad, does not set the size of the whole step.

    Truncated (Ionides 2008; Yao et al. 2025, "Your efficient RL framework secretly brings you
    off-policy RL training"): -A sg(min(r, cap)) log pi(token), whose weight, unlike the gradient
    of a clipped ratio, never vanishes.

    Args:
      logprobs: float32 [B, T], of the policy that learns.
      log_ratio: float32 [B, T], log r, of each token or of its whole completion; None: no ratio.
      advantages: float32 [B, T], of the completion that each token belongs to.
      ratio_cap: Truncate the ratio there; 0: leave it whole.
      clip_low: How far below 1 the ratio counts; 0: all the way.
      clip_high: How far above 1 it counts; 0: all the way.
      dual_clip: The most that it counts where the advantage is negative; 0: any.

    Returns:
      float32 [B, T].
    """
    if log_ratio is None:
        return -advantages * logprobs
    ratio = jnp.exp(log_ratio)
    if ratio_cap:
        return -advantages * jax.lax.stop_gradient(jnp.minimum(ratio, ratio_cap)) * logprobs
    low, high = clip_range(clip_low, clip_high)
    gain = jnp.minimum(ratio * advantages, jnp.clip(ratio, low, high) * advantages)
    if dual_clip:
        gain = jnp.where(advantages < 0, jnp.maximum(gain, dual_clip * advantages), gain)
    return -gain


def is_clipped(log_ratio: Array, advantages: Array, *, clip_low: float, clip_high: float) -> Array:
    """Where PPO's clip stops the gradient: the ratio has moved out of range as the sign of A wants.

    Args:
      log_ratio: As in policy_gradient.
      advantages: As in policy_gradient.
      clip_low: As in policy_gradient.
      clip_high: As in policy_gradient.

    Returns:
      float32 [B, T], 0 or 1.
    """
    ratio, (low, high) = jnp.exp(log_ratio), clip_range(clip_low, clip_high)
    above, below = (advantages > 0) & (ratio > high), (advantages < 0) & (ratio < low)
    return (above | below).astype(jnp.float32)


def clipped_weight(
    logprobs: Array, log_ratio: Array, advantages: Array, *, clip_low: float, clip_high: float
) -> Array:
    """CISPO's loss of each token (MiniMax 2025, arXiv:2506.13585, eq. 4 and 5).

    -A sg(clip(r, 1 - clip_low, 1 + clip_high)) log pi(token): the clip bounds how much a token
    counts, and unlike PPO's it never takes a token's gradient away.

    Args:
      logprobs: As in policy_gradient.
      log_ratio: As in policy_gradient.
      advantages: As in policy_gradient.
      clip_low: As in policy_gradient.
      clip_high: As in policy_gradient.

    Returns:
      float32 [B, T].
    """
    weight = jnp.clip(jnp.exp(log_ratio), *clip_range(clip_low, clip_high))
    return -advantages * jax.lax.stop_gradient(weight) * logprobs


def tapered(logprobs: Array, log_ratio: Array, advantages: Array) -> Array:
    """TOPR's loss of each token (Le Roux et al. 2025, arXiv:2503.14286, section 3).

    -A log pi(token) where A >= 0, and -A sg(min(r, 1)) log pi(token) where A < 0, with r the ratio
    of the whole completion. A bad completion that the policy no longer makes is pushed away no
    further; a good one is learned whatever its ratio.

    Args:
      logprobs: As in policy_gradient.
      log_ratio: float32 [B, T], of the completion, at each of its tokens.
      advantages: As in policy_gradient.

    Returns:
      float32 [B, T].
    """
    weight = jnp.where(advantages < 0, jnp.exp(jnp.minimum(log_ratio, 0.0)), 1.0)
    return -advantages * jax.lax.stop_gradient(weight) * logprobs


def is_within(log_ratio: Array, *, low: float, high: float) -> Array:
    """Where trainer and sampler are near enough to each other to learn: float32, 0 or 1.

    By token this is IcePop's mask (Ring-1T, arXiv:2510.18855: 0.5 to 5), by
    completion the masked importance sampling of Liu et al. 2025 ("When speed kills stability"):
    what lies outside is rejected, not truncated, as its ratio is mostly an error of the sampler's
    numbers and its gradient noise.

    Args:
      log_ratio: log trainer / sampler, of each token or of its completion.
      low: The least ratio; 0: any.
      high: The greatest; 0: any.
    """
    ratio = jnp.exp(jax.lax.stop_gradient(log_ratio))
    return ((ratio >= low) & (ratio <= (high or jnp.inf))).astype(jnp.float32)


def clip_range(clip_low: float, clip_high: float) -> tuple[float, float]:
    """The least and the greatest ratio that counts; 0 in either place: no bound."""
    return 1 - clip_low if clip_low else 0.0, 1 + clip_high if clip_high else jnp.inf


def completion_mean(values: Array, completion: Array, mask: Array, count: int) -> Array:
    """The mean over each completion's tokens, at every one of them.

    Of log ratios, the log of GSPO's sequence ratio (Zheng et al. 2025, arXiv:2507.18071, eq. 7):
    log s = mean over t of log pi(y_t) / mu(y_t). Its gradient goes to every token alike.

    Args:
      values: float32 [rows, T].
      completion: int32 [rows, T], which completion each token is of; each lies in one row.
      mask: float32 [rows, T], 1 on tokens.
      count: B, more than any completion's number.

    Returns:
      float32 [rows, T]; on padding it means nothing.
    """
    sums, lengths = (
        jax.ops.segment_sum(each.reshape(-1), completion.reshape(-1), count)
        for each in (values * mask, mask)
    )
    return (sums / jnp.maximum(lengths, 1))[completion]


def completion_sum(values: Array, completion: Array, mask: Array, count: int) -> Array:
    """The sum over each completion's tokens, at every one of them: see completion_mean.

    Of log ratios, the log of the whole completion's ratio.
    """
    sums = jax.ops.segment_sum((values * mask).reshape(-1), completion.reshape(-1), count)
    return sums[completion]


def k3(logprobs: Array, reference_logprobs: Array) -> Array:
    """Schulman's k3 estimate of KL(policy || reference) at each token, never negative.

    k3 = r - 1 - log r with r = reference(token) / policy(token), on tokens that the policy drew
    (http://joschu.net/blog/kl-approx.html; GRPO eq. 4).

    Args:
      logprobs: float32 [B, T], of the policy.
      reference_logprobs: float32 [B, T].

    Returns:
      float32 [B, T].
    """
    log_ratio = reference_logprobs - logprobs
    return jnp.exp(log_ratio) - 1 - log_ratio
