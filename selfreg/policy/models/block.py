"""Defines one layer of a decoder, with its norms and products.

selfreg.policy.models.decoder lists the model families and the types that they compute in.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from selfreg.policy.mesh import constrain
from selfreg.policy.models.attention import KeyValue
from selfreg.policy.models.rope import Rotation, rotate
from selfreg.policy.models.shape import DecoderConfig

Array = jax.Array

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "silu": jax.nn.silu,
    "gelu_pytorch_tanh": partial(jax.nn.gelu, approximate=True),
}


def rms_norm(config: DecoderConfig, x: Array, weight: Array) -> Array:
    """Return x / sqrt(mean(x^2) + eps) * scale over the last axis (Zhang & Sennrich 2019, eq. 4).

    arXiv:1910.07467. The scale is the weight, or 1 + weight if norms are centered; weights stay as
    they are stored. Computes in float32 and returns x's dtype.
    """
    x32 = x.astype(jnp.float32)
    normed = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + config.norm_eps)
    scale = 1.0 + weight.astype(jnp.float32) if config.centered_norms else weight
    return (normed * scale).astype(x.dtype)


def linear(x: Array, weight: Array) -> Array:
    """Return x @ weight.T, with the weight [out, in] cast to x's dtype."""
    # XLA's products of two matrices read transposed operands in place. With a batch axis XLA would
    # transpose the gradient on a CPU, inside of the computation that makes it.
    rows = x.reshape(-1, x.shape[-1])
    y = jax.lax.dot_general(rows, weight.astype(x.dtype), (((1,), (1,)), ((), ())))
    return y.reshape(*x.shape[:-1], len(weight))


def linear_of_few(x: Array, weight: Array) -> Array:
    """Return `linear` for a few dozen rows on a CPU, as weight @ x.T.

    XLA's products on a CPU first pack their right side into tiles, which for few rows costs more
    than the product. As the left side, the weight is not packed. The barrier keeps XLA from
    swapping the sides again.
    """
    columns = x.reshape(-1, x.shape[-1]).T
    y = jax.lax.optimization_barrier(weight.astype(x.dtype) @ columns)
    return y.T.reshape(*x.shape[:-1], len(weight))


class Block(nnx.Module):
    """One layer: x + attention(norm(x)), then x + ffn(norm(x)) with a gated FFN."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.adapter_scale = 0.0  # selfreg.policy.models.lora sets it with the adapters
        self.linear = linear  # selfreg.policy.rollout.decode replaces it for few rows
        width, head_dim = config.width, config.head_dim

        def weight(outputs: int, inputs: int) -> nnx.Param:
            # Normal(0, 0.02), as in the families' own initializers.
            return nnx.Param(0.02 * jax.random.normal(rngs.params(), (outputs, inputs)))

        def norm(size: int) -> nnx.Param:
            return nnx.Param(jnp.zeros(size) if config.centered_norms else jnp.ones(size))

        self.q = weight(config.heads * head_dim, width)
        self.k = weight(config.kv_heads * head_dim, width)
        self.v = weight(config.kv_heads * head_dim, width)
        self.o = weight(width, config.heads * head_dim)
        self.gate = weight(config.ffn_width, width)
        self.up = weight(config.ffn_width, width)
        self.down = weight(width, config.ffn_width)
        self.attention_norm = norm(width)
        self.ffn_norm = norm(width)
        if config.sandwich_norms:
            self.post_attention_norm = norm(width)
            self.post_ffn_norm = norm(width)
        if config.qkv_bias:
            self.q_bias = nnx.Param(jnp.zeros(config.heads * head_dim))
            self.k_bias = nnx.Param(jnp.zeros(config.kv_heads * head_dim))
            self.v_bias = nnx.Param(jnp.zeros(config.kv_heads * head_dim))
        if config.qk_norm:
            self.q_norm = norm(head_dim)
            self.k_norm = norm(head_dim)

    def product(self, name: str, x: Array) -> Array:
        """Multiply x by the matrix of this name, and by its low-rank adapters if there are any."""
        matrix = getattr(self, name)[...]
        y = self.linear(x, matrix)
        if not self.adapter_scale:
            return y
        low = linear(x, getattr(self, f"{name}_a")[...])
        return y + self.adapter_scale * linear(low, getattr(self, f"{name}_b")[...])

    def query_key_value(self, x: Array, rotation: Rotation) -> tuple[Array, KeyValue]:
        """Compute rotated queries, and this layer's own keys and values.

        Args:
          x: [B, T, D].
          rotation: The rotation of these tokens in a layer of this kind.

        Returns:
          Queries [B, T, heads, head_dim]; keys and values [B, T, kv_heads, head_dim] each.
        """
        config = self.config
        h = rms_norm(config, x, self.attention_norm[...])

        def project(name: str) -> Array:
            y = self.product(name, h)
            if config.qkv_bias:
                y = y + getattr(self, f"{name}_bias")[...].astype(y.dtype)
            axis, heads = ("heads", config.heads) if name == "q" else ("kv_heads", config.kv_heads)
            y = y.reshape(*y.shape[:-1], heads, config.head_dim)
            return constrain(y, "rows", None, axis, None)

        q = project("q")
        k = project("k")
        v = project("v")
        if config.qk_norm:
            q = rms_norm(config, q, self.q_norm[...])
            k = rms_norm(config, k, self.k_norm[...])
        return rotate(q, rotation), KeyValue(rotate(k, rotation), v)

    def finish(self, x: Array, attended: Array) -> Array:
        """Run the rest of the layer on the output of attention [B, T, heads * head_dim]."""
        config = self.config
        attended = self.product("o", attended)
        if config.sandwich_norms:
            attended = rms_norm(config, attended, self.post_attention_norm[...])
        x = x + attended
        h = rms_norm(config, x, self.ffn_norm[...])
        gated = ACTIVATIONS[config.activation](self.product("gate", h)) * self.product("up", h)
        fed = self.product("down", gated)
        if config.sandwich_norms:
            fed = rms_norm(config, fed, self.post_ffn_norm[...])
        return x + fed
