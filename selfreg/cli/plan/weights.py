"""Sizes of a policy's weights and activations, split over a mesh."""

import math
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import AbstractMesh

from selfreg.cli.plan.job import BYTES, Job
from selfreg.policy.learn.moments import block_size
from selfreg.policy.mesh import AXES
from selfreg.policy.models.decoder import MATRICES, Decoder, DecoderConfig, layout

MASTER = 4  # bytes of float32
KINDS = {"embedding": "embedding", "head": "head", "norm": "norms", "bias": "biases"}


class Split(NamedTuple):
    """Sizes of the mesh's axes."""

    data: int
    fsdp: int
    tensor: int

    @property
    def rows(self) -> int:
        """The number of parts into which the rows of a batch are split."""
        return self.data * self.fsdp

    @property
    def size(self) -> int:
        """The number of devices."""
        return math.prod(self)


class Weight(NamedTuple):
    """A weight of the policy.

    Attributes:
      name: The name.
      shape: The whole shape. Weights of blocks have a leading layer axis.
      shard: The count of numbers that one device holds.
    """

    name: str
    shape: tuple[int, ...]
    shard: int

    @property
    def size(self) -> int:
        """The count of numbers in the whole weight."""
        return math.prod(self.shape)

    @property
    def in_blocks(self) -> bool:
        """Whether the weight belongs to the blocks, which are stacked over layers and scanned."""
        return self.name not in ("embedding", "head", "final_norm")


@cache
def weights(decoder: DecoderConfig, split: Split) -> tuple[Weight, ...]:
    """Return every weight of a decoder, with the size of its shard on this mesh."""
    abstract = nnx.eval_shape(lambda: Decoder(decoder, rngs=nnx.Rngs(0)))
    tree = nnx.to_pure_dict(nnx.state(abstract))
    return _placed(decoder, split, tree)


def _placed(decoder: DecoderConfig, split: Split, tree: Any) -> tuple[Weight, ...]:
    shardings = layout(decoder, AbstractMesh(split, AXES), tree)
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    placed = jax.tree.leaves(shardings)
    return tuple(
        Weight(path[-1].key, leaf.shape, math.prod(sharding.shard_shape(leaf.shape)))
        for (path, leaf), sharding in zip(flat, placed, strict=True)
    )


def parameters(decoder: DecoderConfig) -> dict[str, int]:
    """Count the parameters by part: each matrix by its name, all norms, and all biases."""
    counts: dict[str, int] = {}
    for weight in weights(decoder, Split(1, 1, 1)):
        part = KINDS.get(weight.name.rpartition("_")[2], weight.name)
        counts[part] = counts.get(part, 0) + weight.size
    return counts


def trained(job: Job, split: Split) -> tuple[Weight, ...]:
    """Return the weights that are trained: all of them, or the adapters of the blocks' matrices."""
    if not job.lora_rank:
        return weights(job.decoder, split)
    adapters: dict[str, jax.ShapeDtypeStruct] = {}
    for weight in weights(job.decoder, split):
        if weight.name in MATRICES:
            layers, outputs, inputs = weight.shape
            shapes = {"a": (layers, job.lora_rank, inputs), "b": (layers, outputs, job.lora_rank)}
            adapters |= {
                f"{weight.name}_{side}": jax.ShapeDtypeStruct(shape, jnp.float32)
                for side, shape in shapes.items()
            }
    return _placed(job.decoder, split, adapters)


class Pass(NamedTuple):
    """The sizes of one pass through the layers on one device, including padding.

    Attributes:
      tokens: Tokens of all rows.
      keys: Keys that the rows attend to, including those of their prompts.
      scores: Pairs of a query and a key, per head.
    """

    tokens: float
    keys: float
    scores: float


def scores_of(job: Job, split: Split, part: Pass) -> float:
    """Count the attention scores that a layer holds on a device; 0 if attention is fused."""
    heads = job.decoder.heads / divisor(job.decoder.kv_heads, split.tensor)
    return 0.0 if job.fused_attention else heads * part.scores


def widths(job: Job, split: Split) -> tuple[float, float, float]:
    """Return the widths of a device's queries, of its keys, and of its part of the FFN."""
    decoder, tensor = job.decoder, split.tensor
    query, key = (
        heads * decoder.head_dim / divisor(heads, tensor)
        for heads in (decoder.heads, decoder.kv_heads)
    )
    return query, key, decoder.ffn_width / divisor(decoder.ffn_width, tensor)


def divisor(size: int, parts: int) -> int:
    """Return the number of parts that an axis is split into: `parts` if they divide it, else 1."""
    return parts if size % parts == 0 else 1


def moment_bytes(job: Job, weight: Weight) -> float:
    """Return the bytes of both moments per parameter. int8 adds a float32 scale for each block."""
    if job.moments == "int8":
        return 2 * (1 + MASTER / block_size(weight.shape[-1]))
    return 2.0 * BYTES[job.moments]
