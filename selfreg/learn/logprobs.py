"""Logprobs and entropies of tokens without ever holding the logits of a whole batch."""

import jax
import jax.numpy as jnp

Array = jax.Array


def token_logprobs(
    hidden: Array, head: Array, targets: Array, *, temperature: float, chunk_tokens: int
) -> tuple[Array, Array]:
    """Log softmax(hidden head^T / temperature) at the targets, and the entropy beside it.

    The temperature is the sampler's, so that trainer and sampler speak of one distribution.
    [B, T, V] never exists: chunks of tokens go through the head one at a time, and the backward
    pass computes each chunk's logits again instead of keeping them.

    Args:
      hidden: [B, T, D], final-normed, each the state that predicts its target.
      head: float32 [V, D].
      targets: int32 [B, T].
      temperature: Above 0.
      chunk_tokens: Tokens whose logits exist at one time.

    Returns:
      Logprobs float32 [B, T], and entropies float32 [B, T] in nats, which pass no gradient on.
    """
    shape, count = targets.shape, targets.size
    chunk = min(chunk_tokens, count)
    chunks = -(-count // chunk)
    pad = chunks * chunk - count
    flat_hidden = jnp.pad(hidden.reshape(count, -1), ((0, pad), (0, 0)))
    flat_targets = jnp.pad(targets.reshape(count), (0, pad))
    weight = head.astype(hidden.dtype)

    @jax.checkpoint
    def of_chunk(part: tuple[Array, Array]) -> tuple[Array, Array]:
        states, wanted = part
        logits = jnp.einsum("cd,vd->cv", states, weight, preferred_element_type=jnp.float32)
        logprobs = jax.nn.log_softmax(logits / temperature, axis=-1)
        fixed = jax.lax.stop_gradient(logprobs)
        entropy = -jnp.sum(jnp.exp(fixed) * fixed, axis=-1)
        return jnp.take_along_axis(logprobs, wanted[:, None], axis=-1)[:, 0], entropy

    parts = flat_hidden.reshape(chunks, chunk, -1), flat_targets.reshape(chunks, chunk)
    logprobs, entropy = jax.lax.map(of_chunk, parts)
    return logprobs.reshape(-1)[:count].reshape(shape), entropy.reshape(-1)[:count].reshape(shape)
