"""AdamW on float32 master weights, its learning rate an argument of the update."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import optax

from selfreg.policy.learn.moments import scale_by_adam

Array = jax.Array


@cache  # the same rule for the same arguments: programs are compiled for a rule
def make_optimizer(
    *,
    b1: float,
    b2: float,
    eps: float,
    weight_decay: float,
    clip_norm: float,
    state_dtype: str = "float32",
) -> optax.GradientTransformation:
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) for a learning rate of 1.

    The update multiplies what comes out by the learning rate: so a plan can change it from campaign
    to campaign, and a warm-up from step to step, without a new program. Weights must be float32: at
    lr 1e-6 a step is far below the spacing of bfloat16 weights, which would not move at all.

    Args:
      b1: Decay of the first moment.
      b2: Decay of the second moment.
      eps: Added to the root of the second moment. Adam divides by that root, so that a gradient of
        any size makes steps of about the learning rate; below eps it makes smaller ones.
      weight_decay: Times the weights (matrices only), added to each step.
      clip_norm: The most that the gradient's global norm may be; 0 leaves it alone.
      state_dtype: What the moments are stored in: see scale_by_adam.
    """
    steps = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
    steps += [scale_by_adam(b1, b2, eps, state_dtype)]
    if weight_decay:
        steps += [optax.add_decayed_weights(weight_decay, mask=_matrices)]
    return optax.chain(*steps, optax.scale(-1.0))


def _matrices(params: optax.Params) -> optax.Params:
    """True where a weight is a matrix: norms and biases do not decay."""
    return jax.tree_util.tree_map_with_path(lambda path, _: _is_matrix(path), params)


def _is_matrix(path: tuple[Any, ...]) -> bool:
    # Stacked over layers a bias is two-dimensional too, so the name decides.
    return not path[-1].key.endswith(("norm", "bias"))


def cap_updates(updates: Any, params: Any, max_ratio: float) -> tuple[Any, Array]:
    """Shrink the update of each matrix to at most `max_ratio` of the matrix.

    W's update U becomes U min(1, max_ratio |W| / |U|), norms being Frobenius norms over one layer's
    matrix. |W| / |U| is what LARS (You et al. 2017, arXiv:1708.03888, eq. 6) sets each layer's rate
    by; as a cap it lets Adam be where its steps are small. Biases and norm scales, which may be
    zero and so would never move, are left alone. The two matrices of a LoRA adapter count as one:
    B starts at zero, and has no ratio of its own.

    Args:
      updates: What will be added to the weights, the learning rate in it.
      params: The weights, nested alike; `blocks` are stacked over layers.
      max_ratio: Above 0.

    Returns:
      The updates, and the fraction of matrices whose update was shrunk.
    """
    sizes, weights = _squared_norms(updates), _squared_norms(params)
    capped = {name: sizes[name] > max_ratio**2 * weights[name] for name in sizes}
    # No division by an update of zero: it is not capped.
    scales = {
        name: jnp.where(capped[name], max_ratio * jnp.sqrt(weights[name] / sizes[name]), 1.0)
        for name in sizes
    }

    def leaf(path: tuple[Any, ...], update: Array) -> Array:
        return update * scales[_matrix_name(path)] if _is_matrix(path) else update

    flat = jnp.concatenate([each.reshape(-1) for each in capped.values()])
    return jax.tree_util.tree_map_with_path(leaf, updates), jnp.mean(flat.astype(jnp.float32))


def _squared_norms(tree: Any) -> dict[str, Array]:
    """Of each matrix, an adapter's two together: [L, 1, 1], or [1, 1] outside of the layers."""
    found: dict[str, Array] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if _is_matrix(path):
            name = _matrix_name(path)
            found[name] = found.get(name, 0.0) + jnp.sum(leaf**2, axis=(-2, -1), keepdims=True)
    return found


def _matrix_name(path: tuple[Any, ...]) -> str:
    return path[-1].key.removesuffix("_a").removesuffix("_b")


def learning_rate(base: float, step: int, warmup_steps: int) -> float:
    """The learning rate of a campaign's update `step`, from 0: linear up to `base`, then level."""
    return base * min(1.0, (step + 1) / max(1, warmup_steps))
