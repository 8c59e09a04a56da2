"""Weights that are frozen ones with LoRA's adapters beside them, read layer by layer."""

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
    """Full weights that are not merged yet: frozen ones, and adapters beside them.

    An engine and an export read them layer by layer (`read_layer`), so that the device never holds
    a merged copy of all layers for them.

    Attributes:
      base: The frozen weights, nested as the decoder's.
      adapters: As `abstract_adapters`.
      alpha: As in Lora.
    """

    base: Any
    adapters: Any
    alpha: float


def product(a: Array, b: Array, alpha: float) -> Array:
    """(alpha / r) B A, float32 [out, in], of A [r, in] and B [out, r]."""
    return alpha / len(a) * jnp.matmul(b, a, precision=jax.lax.Precision.HIGHEST)


def merge_matrix(weight: Array, a: Array, b: Array, alpha: float) -> Array:
    """W + (alpha / r) B A, summed in float32, in the type of W."""
    return (weight.astype(jnp.float32) + product(a, b, alpha)).astype(weight.dtype)


def stacks(params: Any, name: str) -> tuple[Array, ...]:
    """The stacks from which `read_layer` makes a block's weight: itself, or with adapters three."""
    if not isinstance(params, Adapted):
        return (params["blocks"][name],)
    own = params.adapters["blocks"]
    factors = (own[f"{name}_a"], own[f"{name}_b"]) if name in MATRICES else ()
    return params.base["blocks"][name], *factors


def read_layer(parts: tuple[Array, ...], layer: int | Array, alpha: float) -> Array:
    """One layer's weight from its `stacks`, merged if it has adapters."""
    weight, *factors = (part[layer] for part in parts)
    return merge_matrix(weight, factors[0], factors[1], alpha) if factors else weight


def unmerged(params: Any) -> tuple[Any, float]:
    """The weights beside the adapters, if there are any, and alpha."""
    return (params.base, params.alpha) if isinstance(params, Adapted) else (params, 0.0)
