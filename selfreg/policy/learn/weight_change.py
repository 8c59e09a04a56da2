"""Measure how far an update moved the policy's weights, as a sampler would see them."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from selfreg.policy.models.lora import MATRICES, AdaptedPolicy, low_rank, merge_layer
from selfreg.policy.models.policy import Policy

Array = jax.Array


def weight_change(policy: Policy, old: Any, updates: Any, new: Any) -> dict[str, Array]:
    """Return the update's size relative to the weights, and how many bfloat16 weights changed.

    Both numbers refer to all of the policy's weights. With LoRA these are the merged weights. A
    matrix changes by (alpha / r) (B' A' - B A), while embeddings and norms do not change. So the
    numbers are comparable with those of a run that trains all weights.

    Args:
      policy: The policy whose weights or adapters these are.
      old: The parameters before the update.
      updates: The values that were added.
      new: The parameters after the update.

    Returns:
      `update_to_weight_ratio`, a ratio of global norms, and `bf16_changed_fraction`, the fraction
      of all weights whose bfloat16 rounding changed.
    """
    if isinstance(policy, AdaptedPolicy):
        squared_update, squared_weights, changed, count = _adapted(policy, old, updates, new)
    else:
        squared_update, squared_weights = _squares(updates), _squares(old)
        changed, count = _changed(old, new), _count(new)
    return {
        "update_to_weight_ratio": jnp.sqrt(squared_update / squared_weights),
        # JAX would convert a Python int to int32, whose maximum is 2,147,483,647.
        "bf16_changed_fraction": changed / float(count),
    }


def _adapted(
    policy: AdaptedPolicy, old: Any, updates: Any, new: Any
) -> tuple[Array, Array, Array, int]:
    matrices = {name: policy.base["blocks"][name] for name in MATRICES}

    def of_layer(layer: tuple[Any, ...]) -> tuple[Array, Array, Array]:
        base, before, step, after = layer
        # B' A' - B A = dB A' + B dA. Rounding would swallow the difference of the two products.
        left = {n: (step if n.endswith("_b") else after)[n] for n in step}
        right = {n: (before if n.endswith("_b") else step)[n] for n in step}
        halves = [low_rank(factors, policy.alpha) for factors in (left, right)]
        change = jax.tree.map(jnp.add, *halves)
        merged = [merge_layer(base, factors, policy.alpha) for factors in (before, after)]
        return _squares(change), _squares(merged[0]), _changed(*merged)

    layers = matrices, old["blocks"], updates["blocks"], new["blocks"]
    squared_update, squared_weights, changed = map(jnp.sum, jax.lax.map(of_layer, layers))
    rest = {n: w for n, w in policy.base["blocks"].items() if n not in MATRICES}
    others = policy.base | {"blocks": rest}
    return squared_update, squared_weights + _squares(others), changed, _count(policy.base)


def _squares(tree: Any) -> Array:
    return optax.tree.norm(jax.tree.map(lambda a: a.astype(jnp.float32), tree), squared=True)


def _changed(old: Any, new: Any) -> Array:
    changed = [
        jnp.sum(a.astype(jnp.bfloat16) != b.astype(jnp.bfloat16), dtype=jnp.float32)
        for a, b in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True)
    ]
    return sum(changed, jnp.float32(0))


def _count(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
