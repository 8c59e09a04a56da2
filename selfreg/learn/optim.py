"""AdamW on float32 master weights, its learning rate an argument of the update."""

import jax
import optax

from selfreg.learn.moments import scale_by_adam


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
      eps: Added to the root of the second moment; large values damp the update.
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
    """True where a weight is a matrix: norms and biases do not decay.

    Stacked over layers a bias is two-dimensional too, so the name decides.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, _: not path[-1].key.endswith(("norm", "bias")), params
    )


def learning_rate(base: float, step: int, warmup_steps: int) -> float:
    """The learning rate of a campaign's update `step`, from 0: linear up to `base`, then level."""
    return base * min(1.0, (step + 1) / max(1, warmup_steps))
