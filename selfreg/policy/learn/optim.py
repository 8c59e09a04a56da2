"""AdamW on float32 master weights, with the learning rate as an argument of the update."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import optax

from selfreg.policy.learn.moments import scale_by_adam

Array = jax.Array


@cache  # equal arguments must give the same object, because programs are compiled per object
def make_optimizer(
    *,
    b1: float,
    b2: float,
    eps: float,
    weight_decay: float,
    clip_norm: float,
    state_dtype: str = "float32",
) -> optax.GradientTransformation:
    """Return AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) at a learning rate of 1.

    The update multiplies the result by the learning rate. So a plan can change the rate between
    campaigns, and a warm-up between steps, without recompiling. Weights must be float32. At lr 1e-6
    a step is far below the spacing of bfloat16 weights, so they would not move at all.

    Args:
      b1: Decay of the first moment.
      b2: Decay of the second moment.
      eps: Added to the square root of the second moment. Adam divides by the sum. So a gradient of
        any size makes steps of about the learning rate, unless it is below eps.
      weight_decay: Coefficient of the weights in each step. It applies to matrices only.
      clip_norm: Maximum of the gradient's global norm. 0: no clipping.
      state_dtype: Storage dtype of the moments. See scale_by_adam.
    """
    steps = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
    steps += [scale_by_adam(b1, b2, eps, state_dtype)]
    if weight_decay:
        steps += [optax.add_decayed_weights(weight_decay, mask=_matrices)]
    return optax.chain(*steps, optax.scale(-1.0))


def _matrices(params: optax.Params) -> optax.Params:
    """Return True for matrices. Norm scales and biases do not decay."""
    return jax.tree_util.tree_map_with_path(lambda path, _: _is_matrix(path), params)


def _is_matrix(path: tuple[Any, ...]) -> bool:
    # A bias stacked over layers is two-dimensional too, so the name must decide.
    return not path[-1].key.endswith(("norm", "bias"))


def cap_updates(updates: Any, params: Any, max_ratio: float) -> tuple[Any, Array]:
    """Shrink the update of each matrix so that its norm is at most `max_ratio` of the matrix's.

    W's update U becomes U min(1, max_ratio |W| / |U|). The norms are Frobenius norms over one
    layer's matrix. LARS (You et al. 2017, arXiv:1708.03888, eq. 6) sets each layer's learning rate
    from |W| / |U|. A cap instead leaves Adam's small steps unchanged. Biases and norm scales are
    not capped, because they may be zero and would then never move. The two matrices of a LoRA
    adapter count as one, because B starts at zero and has no ratio of its own.

    Args:
      updates: The values to be added to the weights, with the learning rate included.
      params: The weights, with the same nesting. `blocks` are stacked over layers.
      max_ratio: Above 0.

    Returns:
      The updates, and the fraction of matrices whose update was shrunk, float32 [].
    """
    sizes, weights = _squared_norms(updates), _squared_norms(params)
    capped = {name: sizes[name] > max_ratio**2 * weights[name] for name in sizes}
    # An update of zero is not capped, so the division by zero in the other branch is never used.
    scales = {
        name: jnp.where(capped[name], max_ratio * jnp.sqrt(weights[name] / sizes[name]), 1.0)
        for name in sizes
    }

    def leaf(path: tuple[Any, ...], update: Array) -> Array:
        return update * scales[_matrix_name(path)] if _is_matrix(path) else update

    flat = jnp.concatenate([each.reshape(-1) for each in capped.values()])
    return jax.tree_util.tree_map_with_path(leaf, updates), jnp.mean(flat.astype(jnp.float32))


def _squared_norms(tree: Any) -> dict[str, Array]:
    """Return the squared norm of each matrix, with an adapter's two matrices summed.

    Shapes are [L, 1, 1] for matrices in layers and [1, 1] for others.
    """
    found: dict[str, Array] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if _is_matrix(path):
            name = _matrix_name(path)
            found[name] = found.get(name, 0.0) + jnp.sum(leaf**2, axis=(-2, -1), keepdims=True)
    return found


def _matrix_name(path: tuple[Any, ...]) -> str:
    return path[-1].key.removesuffix("_a").removesuffix("_b")


def learning_rate(base: float, step: int, warmup_steps: int) -> float:
    """Return the learning rate of a campaign's update `step`, counted from 0.

    It rises linearly to `base` over the warm-up and then stays constant.
    """
    return base * min(1.0, (step + 1) / max(1, warmup_steps))
