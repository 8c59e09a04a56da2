"""Gradients that the backward pass adds up in place.

Autodiff makes the gradient of stacked layers as an array of its own, and adds it to a sum of others
afterwards: two or three arrays as large as all weights. Here the sum goes through the layers beside
the activations. Forward it is handed on as it is, so that XLA drops it; its cotangent goes backward
through the layers, and each layer adds its gradient to it. So `jax.vjp` of a function of zeros,
given a sum as the cotangent of the zeros that come out, returns the sum with the gradient in it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax

Array = jax.Array


def add_gradient(
    split: Callable[[Any], Any], weights: Any, sums: Any, layer: Array | None = None
) -> tuple[Any, Any]:
    """The weights and the sums as they are; backward a layer's gradient is added to the sums.

    Args:
      split: Lays a gradient over the mesh in force.
      weights: What a function computes with. They get no gradient of their own.
      sums: Float32, nested and shaped alike.
      layer: int32 []: the weights are of this layer, and the sums have a leading [L]. None: the
        weights are no layer's; their gradient takes the place of the sums, and the caller adds it.

    Returns:
      The weights to compute with, and the sums to hand on.
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
