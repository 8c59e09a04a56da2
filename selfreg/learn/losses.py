"""Every objective, as a loss a token. The batch's loss is sum(token_weights * token loss)."""

import jax
import jax.numpy as jnp

Array = jax.Array


def policy_gradient(
    logprobs: Array,
    sampler_logprobs: Array,
    advantages: Array,
    *,
    use_ratio: bool,
    ratio_cap: float = 0.0,
) -> Array:
    """The policy-gradient loss of each token.

    Without the ratio, REINFORCE (Williams 1992): -A log pi(token). With it, the importance-weighted
    surrogate: -A pi(token) / mu(token), mu the sampler. On the sampler's own policy the two have
    the same gradient; they part when the policy has moved since it sampled, or when the sampler
    computes otherwise. Truncated (Ionides 2008; Yao et al. 2025, "Your efficient RL framework
    secretly brings you off-policy RL training"): -A sg(min(pi / mu, cap)) log pi(token),
    whose weight, unlike the gradient of a clipped ratio, never vanishes.

    Args:
      logprobs: float32 [B, T], of the policy that learns.
      sampler_logprobs: float32 [B, T].
      advantages: float32 [B, T], of the completion that each token belongs to.
      use_ratio: Weight by the importance ratio.
      ratio_cap: Truncate it there; 0: leave it whole.

    Returns:
      float32 [B, T].
    """
    if use_ratio and ratio_cap:
        ratio = jax.lax.stop_gradient(jnp.exp(logprobs - sampler_logprobs))
        return -advantages * jnp.minimum(ratio, ratio_cap) * logprobs
    if use_ratio:
        return -advantages * jnp.exp(logprobs - sampler_logprobs)
    return -advantages * logprobs


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
