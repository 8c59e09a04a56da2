"""Frozen weights with LoRA adapters beside them, merged layer by layer as they are read."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from selfreg.policy.models.decoder import MATRICES

Array = jax.Array


@partial(jax.tree_util.register_dataclass, data_fields=["base", "adapters"], meta_fields=["alpha"])
@dataclass(frozen=True)
class Adapted:
    """Full weights that are not merged yet: frozen base weights, and adapters beside them.

    Engines and exports read them layer by layer (`read_layer`), so the device never holds a merged
    copy of all layers.

    Attributes:
      base: The frozen weights, nested like the decoder's.
      adapters: Adapters in the form of `abstract_adapters`.
      alpha: As in Lora.
    """

    base: Any
    adapters: Any
    alpha: float


def product(a: Array, b: Array, alpha: float) -> Array:
    """Return (alpha / r) B A, float32 [out, in], for A [r, in] and B [out, r]."""
    return alpha / len(a) * jnp.matmul(b, a, precision=jax.lax.Precision.HIGHEST)


def merge_matrix(weight: Array, a: Array, b: Array, alpha: float) -> Array:
    """Return W + (alpha / r) B A, summed in float32 and cast to W's dtype."""
    return (weight.astype(jnp.float32) + product(a, b, alpha)).astype(weight.dtype)


def stacks(params: Any, name: str) -> tuple[Array, ...]:
    """Return the stacked arrays from which `read_layer` makes a block's weight.

    They are the weight alone, or the weight and its adapter's A and B.
    """
    if not isinstance(params, Adapted):
        return (params["blocks"][name],)
    own = params.adapters["blocks"]
    factors = (own[f"{name}_a"], own[f"{name}_b"]) if name in MATRICES else ()
    return params.base["blocks"][name], *factors


def read_layer(parts: tuple[Array, ...], layer: int | Array, alpha: float) -> Array:
    """Return one layer's weight from its `stacks`, merged if it has an adapter."""
    weight, *factors = (part[layer] for part in parts)
    return merge_matrix(weight, factors[0], factors[1], alpha) if factors else weight


def unmerged(params: Any) -> tuple[Any, float]:
    """Return the base weights and alpha, or weights without adapters as they are and 0."""
    return (params.base, params.alpha) if isinstance(params, Adapted) else (params, 0.0)
