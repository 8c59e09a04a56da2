"""Accumulate gradients in place during the backward pass.

Autodiff computes the gradient of stacked layers in a separate array and then adds it to the sum of
earlier gradients. That takes two or three arrays as large as all weights. Here the sum passes
through the layers beside the activations. The forward pass returns it unchanged, so XLA removes it.
In the backward pass its cotangent visits every layer, and each layer adds its gradient to it.

To use it, call `jax.vjp` on a function that takes zeros and returns them. Passing a sum as the
cotangent of the returned zeros gives back that sum plus the gradient.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax

Array = jax.Array


def add_gradient(
    split: Callable[[Any], Any], weights: Any, sums: Any, layer: Array | None = None
) -> tuple[Any, Any]:
    """Return weights and sums unchanged, and add the weights' gradient to the sums in the backward.

    Args:
      split: Constrains a gradient to the mesh in force.
      weights: The weights to compute with. They get no gradient of their own.
      sums: Float32, with the nesting and shapes of the weights.
      layer: int32 [], the layer of the weights. The sums then have a leading [L]. None: the weights
        are not part of a layer. Their gradient replaces the sums, and the caller adds it.

    Returns:
      The weights to compute with, and the sums to pass on.
    """

    def add(layer: Array | None, total: Array, gradient: Array) -> Array:
        if layer is None:
            return gradient
        new = jax.lax.dynamic_index_in_dim(total, layer, keepdims=False) + gradient
        return jax.lax.dynamic_update_index_in_dim(total, new, layer, 0)

    @jax.custom_vjp
    def same(weights: Any, sums: Any, layer: Array | None) -> tuple[Any, Any]:
        return weights, sums

    def forward(weights: Any, sums: Any, layer: Array | None) -> tuple[Any, Array | None]:
        return (weights, sums), layer

    def backward(layer: Array | None, cotangents: tuple[Any, Any]) -> tuple[None, Any, None]:
        gradient, total = cotangents
        return None, jax.tree.map(partial(add, layer), total, split(gradient)), None

    same.defvjp(forward, backward)
    return same(weights, sums, layer)
