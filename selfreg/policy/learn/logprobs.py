"""Logprobs and entropies of tokens, without holding the logits of a whole batch at once."""

import jax
import jax.numpy as jnp

from selfreg.policy.mesh import constrain, split_rows

Array = jax.Array


def token_logprobs(
    hidden: Array,
    head: Array,
    targets: Array,
    *,
    temperature: float | Array,
    chunk_tokens: int,
    train_entropy: bool = False,
) -> tuple[Array, Array]:
    """Return log softmax(hidden head^T / temperature) at the targets, and the softmax's entropy.

    The temperature is the sampler's, so that trainer and sampler use the same distribution. The
    logits [B, T, V] never exist in full. Chunks of tokens go through the head one at a time, and
    the backward pass recomputes each chunk's logits instead of storing them.

    Args:
      hidden: [B, T, D], the final-normed state that predicts each target.
      head: float32 [V, D], or [copies, V, D] with one copy for each part of the rows.
      targets: int32 [B, T].
      temperature: Above 0.
      chunk_tokens: The number of tokens whose logits exist at one time, over all devices.
      train_entropy: Let the gradient flow through the entropies. This costs one more pass over the
        logits.

    Returns:
      Logprobs float32 [B, T], and entropies float32 [B, T] in nats.
    """
    # Each part of the mesh processes its own rows with its own copy of the head. So the head's
    # gradient is summed over the mesh once, and not in every chunk.
    shards = split_rows(None, len(targets))
    count = targets.size // shards
    chunk = min(max(1, chunk_tokens // shards), count)
    pad = -count % chunk
    copies = head if head.ndim == 2 else jnp.repeat(head, shards // len(head), axis=0)
    weight = jnp.broadcast_to(copies.astype(hidden.dtype), (shards, *head.shape[-2:]))
    weight = constrain(weight, "rows", "vocab", None)

    def chunks(a: Array) -> Array:
        flat = a.reshape(shards, count, *a.shape[2:])
        padded = jnp.pad(flat, ((0, 0), (0, pad), *[(0, 0)] * (flat.ndim - 2)))
        parts = padded.reshape(shards, -1, chunk, *a.shape[2:]).swapaxes(0, 1)
        return constrain(parts, None, "rows", *[None] * (parts.ndim - 2))

    def whole(a: Array) -> Array:
        return a.swapaxes(0, 1).reshape(shards, -1)[:, :count].reshape(targets.shape)

    @jax.checkpoint
    def of_chunk(part: tuple[Array, Array]) -> tuple[Array, Array]:
        states, wanted = part
        logits = jnp.einsum("scd,svd->scv", states, weight, preferred_element_type=jnp.float32)
        logprobs = jax.nn.log_softmax(logits / temperature, axis=-1)
        each = logprobs if train_entropy else jax.lax.stop_gradient(logprobs)
        entropy = -jnp.sum(jnp.exp(each) * each, axis=-1)
        return jnp.take_along_axis(logprobs, wanted[..., None], axis=-1)[..., 0], entropy

    logprobs, entropy = jax.lax.map(of_chunk, (chunks(hidden), chunks(targets)))
    return whole(logprobs), whole(entropy)
