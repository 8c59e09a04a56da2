"""LoRA (Hu et al. 2021, arXiv:2106.09685): train low-rank adapters beside frozen weights.

Every matrix of a block gets two small ones: y = W x + (alpha / r) B A x (section 4.1), A [r, in]
and B [out, r]. B starts at zero, so that training starts from the base policy exactly. Only A and B
are trained, have moments and are saved. Beside the base they are a policy's weights: `Adapted`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from selfreg.policy.models.adapted import merge_matrix, product
from selfreg.policy.models.decoder import MATRICES, Decoder
from selfreg.policy.models.policy import Policy, abstract_params

Array = jax.Array


class Lora(NamedTuple):
    """What LoRA trains, and beside what.

    Attributes:
      rank: r, the columns of B and rows of A.
      alpha: The scale of the adapters' part is alpha / rank.
      base: The frozen weights, nested as the decoder's, on the host or the mesh; None as long as
        only shapes matter.
    """

    rank: int
    alpha: float
    base: Any


@dataclass(frozen=True)
class AdaptedPolicy(Policy):
    """A policy whose own weights are adapters.

    Attributes:
      alpha: As in Lora.
      base: The frozen weights; None as long as only shapes matter.
    """

    alpha: float
    base: Any = field(compare=False)

    def decoder(self, params: Any) -> Decoder:
        """The decoder with the base's weights and these adapters; cheap, also inside jit."""
        blocks = self.base["blocks"] | params["blocks"]
        return nnx.merge(self.structure, self.base | {"blocks": blocks})


def adapt(policy: Policy, rank: int, alpha: float) -> AdaptedPolicy:
    """The policy with adapters beside its blocks' matrices, its base still to be given.

    Raises:
      ValueError: The rank is more than a matrix has, so that adapters would save nothing.
    """
    shapes = abstract_params(policy)
    sides = {n: min(shapes["blocks"][n].shape[1:]) for n in MATRICES}
    smallest = min(sides, key=sides.__getitem__)
    if rank > sides[smallest]:
        raise ValueError(
            f"config.model.lora_rank={rank} is more than the smallest matrix, {smallest}, has: "
            f"at most {sides[smallest]}, or 0 to train all weights"
        )
    decoder = policy.decoder(shapes)
    for name, shape in abstract_adapters(policy, rank)["blocks"].items():
        setattr(decoder.blocks, name, nnx.Param(shape))
    decoder.blocks.adapter_scale = alpha / rank
    own = {name: getattr(policy, name) for name in Policy.__dataclass_fields__}
    return AdaptedPolicy(**own | {"structure": nnx.graphdef(decoder)}, alpha=alpha, base=None)


def bind(policy: Policy, base: Any) -> Policy:
    """The policy beside these frozen weights, which may be tracers; itself where it needs none."""
    return replace(policy, base=base) if isinstance(policy, AdaptedPolicy) else policy


def abstract_adapters(policy: Policy, rank: int) -> Any:
    """The shapes of a policy's adapters: float32, named `q_a`, `q_b` and so on, blocks stacked."""
    blocks = {}
    for name in MATRICES:
        layers, outputs, inputs = abstract_params(policy)["blocks"][name].shape
        blocks[f"{name}_a"] = jax.ShapeDtypeStruct((layers, rank, inputs), jnp.float32)
        blocks[f"{name}_b"] = jax.ShapeDtypeStruct((layers, outputs, rank), jnp.float32)
    return {"blocks": blocks}


def random_adapters(policy: Policy, rank: int, generator: np.random.Generator) -> Any:
    """Adapters to start from: A normal with variance 1 / in, B zero. NumPy arrays."""

    def leaf(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name.endswith("_b"):
            return np.zeros(shape, np.float32)
        return generator.standard_normal(shape, np.float32) * np.float32(shape[-1] ** -0.5)

    shapes = abstract_adapters(policy, rank)["blocks"]
    return {"blocks": {name: leaf(name, shape.shape) for name, shape in shapes.items()}}


def frozen_types(weights: Any, dtype: jnp.dtype) -> Any:
    """The type in which each weight is kept when it is not trained: that of the layers' arithmetic.

    Norm scales stay float32, as layers use them, so the results are the same to the bit.

    Args:
      weights: A tree of arrays, shapes or `Tensor`s.
      dtype: The type that layers compute in.
    """

    def leaf(path: tuple[Any, ...], _: Any) -> jnp.dtype:
        return jnp.dtype(jnp.float32) if path[-1].key.endswith("norm") else dtype

    return jax.tree_util.tree_map_with_path(leaf, weights)


def freeze(params: Any, dtype: jnp.dtype) -> Any:
    """Convert weights to their `frozen_types`; a weight that already has its type is not copied."""
    return jax.tree.map(lambda w, kept: w.astype(kept), params, frozen_types(params, dtype))


def low_rank(adapters: Mapping[str, Array], alpha: float) -> dict[str, Array]:
    """What the adapters of one layer add to its matrices: (alpha / r) B A, float32."""
    return {name: product(adapters[f"{name}_a"], adapters[f"{name}_b"], alpha) for name in MATRICES}


def merge_layer(
    base: Mapping[str, Array], adapters: Mapping[str, Array], alpha: float
) -> dict[str, Array]:
    """The merged matrices of one layer."""
    return {
        n: merge_matrix(base[n], adapters[f"{n}_a"], adapters[f"{n}_b"], alpha) for n in MATRICES
    }


def trained_shapes(policy: Policy, rank: int) -> Any:
    """The shapes of what a run trains and its checkpoints hold: adapters, or at rank 0 weights."""
    return abstract_adapters(policy, rank) if rank else abstract_params(policy)
