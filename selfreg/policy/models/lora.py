"""LoRA (Hu et al. 2021, arXiv:2106.09685): train low-rank adapters beside frozen weights.

Every matrix of a block gets two small ones, A [r, in] and B [out, r]: y = W x + (alpha / r) B A x
(section 4.1). B starts at zero, so training starts exactly from the base policy. Only A and B are
trained, have moments and are saved. `Adapted` combines them with the base.
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
    """The settings of LoRA and the frozen weights under the adapters.

    Attributes:
      rank: r, the number of rows of A and of columns of B.
      alpha: The adapters' contribution is scaled by alpha / rank.
      base: The frozen weights, nested like the decoder's, on the host or the mesh. None if only
        shapes matter.
    """

    rank: int
    alpha: float
    base: Any


@dataclass(frozen=True)
class AdaptedPolicy(Policy):
    """A policy whose trained parameters are adapters.

    Attributes:
      alpha: As in Lora.
      base: The frozen weights. None if only shapes matter.
    """

    alpha: float
    base: Any = field(compare=False)

    def decoder(self, params: Any) -> Decoder:
        """Return the decoder with the base's weights and these adapters. Cheap, even inside jit."""
        blocks = self.base["blocks"] | params["blocks"]
        return nnx.merge(self.structure, self.base | {"blocks": blocks})


def adapt(policy: Policy, rank: int, alpha: float) -> AdaptedPolicy:
    """Return the policy with adapters beside its blocks' matrices. `bind` adds the base later.

    Raises:
      ValueError: The rank exceeds that of a matrix, so adapters would save nothing.
    """
    shapes = abstract_params(policy)
    sides = {n: min(shapes["blocks"][n].shape[1:]) for n in MATRICES}
    smallest = min(sides, key=sides.__getitem__)
    if rank > sides[smallest]:
        raise ValueError(
            f"config.model.lora_rank={rank} exceeds the rank of the smallest matrix, {smallest}: "
            f"set at most {sides[smallest]}, or 0 to train all weights"
        )
    decoder = policy.decoder(shapes)
    for name, shape in abstract_adapters(policy, rank)["blocks"].items():
        setattr(decoder.blocks, name, nnx.Param(shape))
    decoder.blocks.adapter_scale = alpha / rank
    own = {name: getattr(policy, name) for name in Policy.__dataclass_fields__}
    return AdaptedPolicy(**own | {"structure": nnx.graphdef(decoder)}, alpha=alpha, base=None)


def bind(policy: Policy, base: Any) -> Policy:
    """Return the policy with these frozen weights, which may be tracers.

    A policy without adapters is returned as it is.
    """
    return replace(policy, base=base) if isinstance(policy, AdaptedPolicy) else policy


def abstract_adapters(policy: Policy, rank: int) -> Any:
    """Return the shapes of a policy's adapters: float32, named `q_a`, `q_b` and so on, stacked."""
    blocks = {}
    for name in MATRICES:
        layers, outputs, inputs = abstract_params(policy)["blocks"][name].shape
        blocks[f"{name}_a"] = jax.ShapeDtypeStruct((layers, rank, inputs), jnp.float32)
        blocks[f"{name}_b"] = jax.ShapeDtypeStruct((layers, outputs, rank), jnp.float32)
    return {"blocks": blocks}


def random_adapters(policy: Policy, rank: int, generator: np.random.Generator) -> Any:
    """Return initial adapters as NumPy arrays: A normal with variance 1 / in, and B zero."""

    def leaf(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name.endswith("_b"):
            return np.zeros(shape, np.float32)
        return generator.standard_normal(shape, np.float32) * np.float32(shape[-1] ** -0.5)

    shapes = abstract_adapters(policy, rank)["blocks"]
    return {"blocks": {name: leaf(name, shape.shape) for name, shape in shapes.items()}}


def frozen_types(weights: Any, dtype: jnp.dtype) -> Any:
    """Return the dtype in which to store each frozen weight: the dtype that layers compute in.

    Norm scales stay float32, because layers use them in float32. So the results do not change by a
    single bit.

    Args:
      weights: A tree of arrays, shapes or `Tensor`s.
      dtype: The dtype that the layers compute in.
    """

    def leaf(path: tuple[Any, ...], _: Any) -> jnp.dtype:
        return jnp.dtype(jnp.float32) if path[-1].key.endswith("norm") else dtype

    return jax.tree_util.tree_map_with_path(leaf, weights)


def freeze(params: Any, dtype: jnp.dtype) -> Any:
    """Convert weights to their `frozen_types`, without copying those that have the type already."""
    return jax.tree.map(lambda w, kept: w.astype(kept), params, frozen_types(params, dtype))


def low_rank(adapters: Mapping[str, Array], alpha: float) -> dict[str, Array]:
    """Return what one layer's adapters add to its matrices: (alpha / r) B A, float32."""
    return {name: product(adapters[f"{name}_a"], adapters[f"{name}_b"], alpha) for name in MATRICES}


def merge_layer(
    base: Mapping[str, Array], adapters: Mapping[str, Array], alpha: float
) -> dict[str, Array]:
    """Return the merged matrices of one layer."""
    return {
        n: merge_matrix(base[n], adapters[f"{n}_a"], adapters[f"{n}_b"], alpha) for n in MATRICES
    }


def trained_shapes(policy: Policy, rank: int) -> Any:
    """Return the shapes that a run trains and checkpoints: adapters, or all weights at rank 0."""
    return abstract_adapters(policy, rank) if rank else abstract_params(policy)
