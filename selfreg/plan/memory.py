"""Bytes a device: what stays, what an update adds, what decoding adds, and what the host holds.

The formulas follow the program as XLA lays it out; a test compares them with the compiler's own
memory analysis. Everything is an upper bound in lengths: every row is as long as the plan says.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import jax
from flax import nnx
from jax.sharding import AbstractMesh

from selfreg.mesh import AXES
from selfreg.models.decoder import Decoder, DecoderConfig, layout
from selfreg.plan.job import Job

MASTER = 4  # bytes of float32
# Arrays as wide as the vocabulary that a chunk of logprobs has at once: logits, their
# log-softmax, and the gradient.
LOGITS_COPIES = 3
CACHE_SEGMENT = 16  # the decoding cache grows by whole segments
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


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes a device, by part.

    Attributes:
      stays: All through a run.
      update: While weights learn.
      sample: While completions are drawn.
      host: Of the host's memory, for all its devices together.
    """

    stays: dict[str, float]
    update: dict[str, float]
    sample: dict[str, float]
    host: dict[str, float]

    @property
    def peak(self) -> float:
        """The most that a device holds at one time."""
        phases = (self.update, self.sample)
        return sum(self.stays.values()) + max(sum(phase.values()) for phase in phases)


@cache
def weights(decoder: DecoderConfig, split: Split) -> tuple[Weight, ...]:
    """Every weight of a decoder, and how much of it a device of this mesh holds."""
    abstract = nnx.eval_shape(lambda: Decoder(decoder, rngs=nnx.Rngs(0)))
    tree = nnx.to_pure_dict(nnx.state(abstract))
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


def estimate(job: Job, split: Split) -> Memory:
    """The memory of a job on a mesh."""
    owned = weights(job.decoder, split)
    whole = sum(weight.shard for weight in owned)
    # Decoding would gather weights at every token: the engine's are whole over fsdp.
    sampled = sum(w.shard for w in weights(job.decoder, Split(split.rows, 1, split.tensor)))
    trained, in_blocks, largest = _trained(job, owned)
    devices = math.prod(split)
    moments = trained * job.moment_bytes
    # Frozen weights are kept in what layers compute in, adapters in float32.
    frozen = {"frozen weights": whole * job.dtype_bytes, "adapters": trained * MASTER}
    stays = {
        **(frozen if job.lora_rank else {"weights, float32": whole * MASTER}),
        "Adam's moments": 0.0 if job.offload else moments,
        "engine's weights": sampled * job.dtype_bytes,
        "reference policy": whole * MASTER if job.uses_kl else 0.0,
    }
    update = {
        "gradients": trained * MASTER,
        # Metrics compare new weights with old ones, so donation cannot overwrite these at once.
        "weights before the step": trained * MASTER,
        "a microbatch's gradients": in_blocks * MASTER if job.layout.count > 1 else 0.0,
    } | _larger(_activations(job, split), {"a weight's step": largest * MASTER})
    if job.offload:
        update["moments, fetched"] = moments
    host = {
        "initial weights": sum(weight.size for weight in owned) * MASTER,
        "a snapshot being written": (trained * MASTER + moments) * devices / split.data,
        "moments, offloaded": moments * devices if job.offload else 0.0,
    }
    return Memory(stays, update, _decoding(job, split), host)


def _trained(job: Job, owned: tuple[Weight, ...]) -> tuple[float, float, float]:
    """Numbers a device that learn: all of them, those in blocks, and the largest array."""
    if not job.lora_rank:
        blocks = [weight.shard for weight in owned if weight.in_blocks]
        every = [weight.shard for weight in owned]
        return sum(every), sum(blocks), max(every)
    # A and B [L, rank, in or out] of every matrix in a block.
    pairs = [
        job.lora_rank * weight.shape[0] * sum(weight.shape[1:])
        for weight in owned
        if weight.in_blocks and len(weight.shape) == 3
    ]
    return sum(pairs), sum(pairs), max(pairs)


def _larger(first: dict[str, float], second: dict[str, float]) -> dict[str, float]:
    """Two sets of buffers that are never held together: the one that weighs more."""
    return max(first, second, key=lambda parts: sum(parts.values()))


def _activations(job: Job, split: Split) -> dict[str, float]:
    """What a microbatch keeps for the backward pass, and what that pass holds beside it.

    With D the width, H and K the widths of queries and of keys, F the FFN's, c the bytes of what is
    kept and n tokens, a layer keeps its input, n D c (`layer`); the products with its weights too,
    n (2 D + H + 2 K + 2 F) c (`dots`); or all that `_layer_bytes` counts (`none`). The backward
    pass works on one whole layer at a time, or on one chunk of logits.
    """
    decoder, layout, c = job.decoder, job.layout, job.activation_bytes
    rows = split.rows if layout.rows % split.rows == 0 else 1
    tensor = _divisor(decoder.kv_heads, split.tensor)
    tokens, layers = layout.tokens / rows, decoder.layers
    query, key = (h * decoder.head_dim / tensor for h in (decoder.heads, decoder.kv_heads))
    ffn = decoder.ffn_width / _divisor(decoder.ffn_width, split.tensor)
    one = _layer_bytes(job, split, rows)
    kept = {
        "layer": tokens * decoder.width * c,
        "dots": tokens * (2 * decoder.width + query + 2 * key + 2 * ffn) * c,
        "none": one,
    }[job.remat]
    gathered = split._replace(data=split.rows, fsdp=1)
    blocks, whole = (
        sum(weight.shard for weight in weights(decoder, mesh) if weight.in_blocks)
        for mesh in (split, gathered)
    )
    vocabulary = decoder.vocab_size / _divisor(decoder.vocab_size, split.tensor)
    chunk = min(job.chunk_tokens, layout.targets) / rows
    narrow, sharded = job.dtype_bytes < MASTER, split.fsdp > 1
    parts = {
        f"activations kept (remat={job.remat})": layers * kept,
        "shared prompts' keys and values": layers * layout.prefix / rows * 2 * key * c,
        # Not recomputed layers keep the narrow weights that they multiplied by.
        "weights, compute copy": blocks * c if narrow and job.remat == "none" else 0.0,
    }
    layer = {
        "one layer, backward": one,
        "one layer's weights, gathered": whole / layers * c if sharded else 0.0,
    }
    head = {
        "head, compute copy": vocabulary * decoder.width * c if narrow or sharded else 0.0,
        "logits of a chunk": LOGITS_COPIES * MASTER * chunk * vocabulary,
    }
    return parts | _larger(layer, head)


def _layer_bytes(job: Job, split: Split, rows: int) -> float:
    """All that the backward pass of one layer wants, in bytes a device.

    Norms keep a float32 copy of what comes in and of what is normed, and their result; attention
    its queries, its keys and values, its result and, where it is plain, scores in float32 and
    weights; a gated FFN six arrays (SwiGLU), or nine (GeGLU, whose tanh has a cubic inside).
    """
    decoder, layout, c = job.decoder, job.layout, job.activation_bytes
    tokens, norm = layout.tokens / rows, 2 * MASTER + c
    tensor = _divisor(decoder.kv_heads, split.tensor)
    query, key = (h * decoder.head_dim / tensor for h in (decoder.heads, decoder.kv_heads))
    names = [weight.name for weight in weights(decoder, Split(1, 1, 1)) if weight.in_blocks]
    widths = {"q_norm": query, "k_norm": key}
    normed = sum(widths.get(name, decoder.width) for name in names if name.endswith("_norm"))
    gelu = getattr(decoder, "activation", "silu") != "silu"
    ffn = (9 if gelu else 6) * decoder.ffn_width / _divisor(decoder.ffn_width, split.tensor)
    scores = 0.0 if job.fused_attention else decoder.heads / tensor * layout.scores / rows
    return (
        tokens * (normed * norm + (2 * query + ffn) * c)
        + layout.keys / rows * 2 * key * c
        + scores * (MASTER + c)
    )


def _decoding(job: Job, split: Split) -> dict[str, float]:
    """Caches and logits of the largest batch that is decoded, and the weights it is handed."""
    decoder = job.decoder
    batch = max(draws.at_once for draws in (job.train, job.panel, job.report))
    rows = batch / (split.rows if batch % split.rows == 0 else 1)
    prompt = 1 << max(5, math.ceil(math.log2(job.prompt)))
    columns = prompt + math.ceil(job.completion / CACHE_SEGMENT) * CACHE_SEGMENT
    heads = decoder.kv_heads / _divisor(decoder.kv_heads, split.tensor)
    column = 2 * decoder.layers * heads * decoder.head_dim * job.dtype_bytes
    return {
        "keys and values": rows * columns * column,
        "logits": 2 * MASTER * rows * decoder.vocab_size,
    }


def _divisor(size: int, parts: int) -> int:
    """The parts that an axis is really split into: all, or none where they do not divide it."""
    return parts if size % parts == 0 else 1
