"""Losses per token. The batch's loss is sum(token_weights * token loss)."""

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
    """Return the policy-gradient loss of each token.

    The ratio is r = pi / mu, where mu is the sampler. sg stops the gradient.

    - No ratio, REINFORCE (Williams 1992): -A log pi(token).
    - Importance-weighted surrogate: -A r. Its gradient equals REINFORCE's while pi equals mu. The
      two differ once the policy has moved since it sampled, or if the sampler's numerics differ.
    - Clipped, PPO (Schulman et al. 2017, arXiv:1707.06347, eq. 7):
      -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A). Beyond the range, a token gains nothing by
      moving further. With clip_high above clip_low this is DAPO's clip-higher (Yu et al. 2025,
      arXiv:2503.14476).
    - Dual-clipped (Ye et al. 2020, arXiv:1912.09729, eq. 5): where A < 0, the loss is at most
      -dual_clip A. Otherwise one bad token with a very large ratio could set the size of the whole
      step.
    - Truncated (Ionides 2008; Yao et al. 2025, "Your efficient RL framework secretly brings you
      off-policy RL training"): -A sg(min(r, cap)) log pi(token). Its gradient never vanishes,
      unlike that of a clipped ratio.

    Args:
      logprobs: float32 [B, T], the trained policy's.
      log_ratio: float32 [B, T], log r of each token or of its completion. None: no ratio.
      advantages: float32 [B, T], the advantage of each token's completion.
      ratio_cap: Upper bound of the truncated ratio. 0: do not truncate.
      clip_low: The clip range reaches this far below 1. 0: no lower bound.
      clip_high: The clip range reaches this far above 1. 0: no upper bound.
      dual_clip: Upper bound of the ratio where the advantage is negative. 0: no bound.

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
    """Return where PPO's clip stops the gradient.

    It does so where the ratio has left the range upwards with A > 0, or downwards with A < 0.

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
    """Return CISPO's loss of each token (MiniMax 2025, arXiv:2506.13585, eq. 4 and 5).

    -A sg(clip(r, 1 - clip_low, 1 + clip_high)) log pi(token). The clip bounds a token's weight but,
    unlike PPO's clip, never removes its gradient.

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
    """Return TOPR's loss of each token (Le Roux et al. 2025, arXiv:2503.14286, section 3).

    -A log pi(token) where A >= 0, and -A sg(min(r, 1)) log pi(token) where A < 0. Here r is the
    ratio of the whole completion. TOPR stops pushing down a bad completion that the policy no
    longer produces. It learns from a good one whatever its ratio.

    Args:
      logprobs: As in policy_gradient.
      log_ratio: float32 [B, T], the completion's log ratio, repeated at each of its tokens.
      advantages: As in policy_gradient.

    Returns:
      float32 [B, T].
    """
    weight = jnp.where(advantages < 0, jnp.exp(jnp.minimum(log_ratio, 0.0)), 1.0)
    return -advantages * jax.lax.stop_gradient(weight) * logprobs


def is_within(log_ratio: Array, *, low: float, high: float) -> Array:
    """Return 1 where the ratio of trainer to sampler lies within bounds, and 0 elsewhere.

    Per token, this is IcePop's mask (Ring-1T, arXiv:2510.18855, with bounds 0.5 and 5). Per
    completion, it is the masked importance sampling of Liu et al. 2025 ("When speed kills
    stability"). Ratios outside the bounds are masked rather than truncated. They come mostly from
    numerical error in the sampler, so their gradient is noise.

    Args:
      log_ratio: log(trainer / sampler) of each token or of its completion.
      low: The lowest ratio to keep. 0: no lower bound.
      high: The highest ratio to keep. 0: no upper bound.

    Returns:
      float32, shaped like `log_ratio`.
    """
    ratio = jnp.exp(jax.lax.stop_gradient(log_ratio))
    return ((ratio >= low) & (ratio <= (high or jnp.inf))).astype(jnp.float32)


def clip_range(clip_low: float, clip_high: float) -> tuple[float, float]:
    """Return the lowest and the highest ratio inside the clip range. 0 sets no bound."""
    return 1 - clip_low if clip_low else 0.0, 1 + clip_high if clip_high else jnp.inf


def completion_mean(values: Array, completion: Array, mask: Array, count: int) -> Array:
    """Return the mean over each completion's tokens, repeated at each of those tokens.

    Applied to log ratios, this gives the log of GSPO's sequence ratio (Zheng et al. 2025,
    arXiv:2507.18071, eq. 7): log s = mean over t of log(pi(y_t) / mu(y_t)). Its gradient is the
    same for every token.

    Args:
      values: float32 [rows, T].
      completion: int32 [rows, T], the index of each token's completion. A completion never spans
        two rows.
      mask: float32 [rows, T], 1 on tokens.
      count: B. Every index in `completion` is below it.

    Returns:
      float32 [rows, T]. Values on padding are meaningless.
    """
    sums, lengths = (
        jax.ops.segment_sum(each.reshape(-1), completion.reshape(-1), count)
        for each in (values * mask, mask)
    )
    return (sums / jnp.maximum(lengths, 1))[completion]


def completion_sum(values: Array, completion: Array, mask: Array, count: int) -> Array:
    """Return the sum over each completion's tokens, repeated at each of those tokens.

    Applied to log ratios, this gives the log of the completion's ratio. For the arguments, see
    completion_mean.
    """
    sums = jax.ops.segment_sum((values * mask).reshape(-1), completion.reshape(-1), count)
    return sums[completion]


def k3(logprobs: Array, reference_logprobs: Array) -> Array:
    """Return Schulman's k3 estimate of KL(policy || reference) at each token. It is never negative.

    k3 = r - 1 - log r with r = reference(token) / policy(token), on tokens that the policy drew
    (http://joschu.net/blog/kl-approx.html; GRPO eq. 4).

    Args:
      logprobs: float32 [B, T], the policy's.
      reference_logprobs: float32 [B, T].

    Returns:
      float32 [B, T].
    """
    log_ratio = reference_logprobs - logprobs
    return jnp.exp(log_ratio) - 1 - log_ratio
