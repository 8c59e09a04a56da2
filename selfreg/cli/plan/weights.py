"""A policy's weights over a mesh, and the widths of what flows through its layers."""

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
        """Parts that a batch's rows are split into."""
        return self.data * self.fsdp

    @property
    def size(self) -> int:
        """Devices."""
        return math.prod(self)


class Weight(NamedTuple):
    """A weight's name, its shape (blocks with a leading layer axis) and its part a device."""

    name: str
    shape: tuple[int, ...]
    shard: int

    @property
    def size(self) -> int:
        """Numbers that it holds."""
        return math.prod(self.shape)

    @property
    def in_blocks(self) -> bool:
        """Stacked over layers, and scanned."""
        return self.name not in ("embedding", "head", "final_norm")


@cache
def weights(decoder: DecoderConfig, split: Split) -> tuple[Weight, ...]:
    """Every weight of a decoder, and how much of it a device of this mesh holds."""
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
    """How many numbers each part of the weights holds: matrices by name, norms, biases."""
    counts: dict[str, int] = {}
    for weight in weights(decoder, Split(1, 1, 1)):
        part = KINDS.get(weight.name.rpartition("_")[2], weight.name)
        counts[part] = counts.get(part, 0) + weight.size
    return counts


def trained(job: Job, split: Split) -> tuple[Weight, ...]:
    """What learns: all weights, or the adapters of the blocks' matrices."""
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
    """What runs through the layers at once, a device and padding included.

    Attributes:
      tokens: Of all rows.
      keys: That the rows see, each row its prompt's too.
      scores: Pairs of a query and a key, a head.
    """

    tokens: float
    keys: float
    scores: float


def scores_of(job: Job, split: Split, part: Pass) -> float:
    """How many scores of attention a layer holds on a device; none where attention is fused."""
    heads = job.decoder.heads / divisor(job.decoder.kv_heads, split.tensor)
    return 0.0 if job.fused_attention else heads * part.scores


def widths(job: Job, split: Split) -> tuple[float, float, float]:
    """Of a device's queries, of its keys, and of its part of the FFN."""
    decoder, tensor = job.decoder, split.tensor
    query, key = (
        heads * decoder.head_dim / divisor(heads, tensor)
        for heads in (decoder.heads, decoder.kv_heads)
    )
    return query, key, decoder.ffn_width / divisor(decoder.ffn_width, tensor)


def divisor(size: int, parts: int) -> int:
    """The parts that an axis is really split into: all, or none where they do not divide it."""
    return parts if size % parts == 0 else 1


def moment_bytes(job: Job, weight: Weight) -> float:
    """Of both moments of one number of a weight; in 8 bits every block has a float32 scale too."""
    if job.moments == "int8":
        return 2 * (1 + MASTER / block_size(weight.shape[-1]))
    return 2.0 * BYTES[job.moments]
