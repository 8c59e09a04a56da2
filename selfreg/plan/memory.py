"""Bytes a device: what stays, what an update adds, what decoding adds, and what the host holds.

The formulas follow the program as XLA lays it out; a test compares them with the compiler's own
memory analysis. Everything is an upper bound in lengths: every row is as long as the plan says.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import AbstractMesh

from selfreg.learn.moments import block_size
from selfreg.learn.packing import in_halves
from selfreg.mesh import AXES
from selfreg.models.decoder import MATRICES, Decoder, DecoderConfig, layout
from selfreg.plan.job import BYTES, Draws, Job, packing_of

MASTER = 4  # bytes of float32
# Arrays as wide as the vocabulary that a chunk of logprobs has at once: logits, their
# log-softmax, and the gradient.
LOGITS_COPIES = 3
SCORES_COPIES = 2  # of prompts that decoding reads: scores, and their softmax
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


def estimate(job: Job, split: Split) -> Memory:
    """The memory of a job on a mesh."""
    owned = weights(job.decoder, split)
    whole = sum(weight.shard for weight in owned)
    # Decoding would gather weights at every token: the engine's are whole over fsdp.
    sampled = sum(w.shard for w in weights(job.decoder, Split(split.rows, 1, split.tensor)))
    learns = _trained(job, split)
    trained = sum(weight.shard for weight in learns)
    largest = max(weight.shard for weight in learns)
    one_pass = sum(w.shard for w in learns if w.in_blocks)
    devices, numbers = math.prod(split), sum(weight.size for weight in owned)
    moments = sum(weight.shard * _moment_bytes(job, weight) for weight in learns)
    # A campaign's first snapshot holds the Fisher information too.
    saved = trained * MASTER * (1 + job.uses_ewc + job.averages)
    # Frozen weights are kept in what layers compute in, adapters in float32.
    frozen = {"frozen weights": whole * job.dtype_bytes, "adapters": trained * MASTER}
    stays = {
        **(frozen if job.lora_rank else {"weights, float32": whole * MASTER}),
        "Adam's moments": 0.0 if job.offload else moments,
        "engine's weights": 0.0 if job.served else sampled * job.dtype_bytes,
        "reference policy": trained * MASTER if job.holds_reference else 0.0,
        "averaged weights": trained * MASTER if job.averages else 0.0,
        "EWC's start and Fisher": 2 * trained * MASTER if job.uses_ewc else 0.0,
    }
    beside = 2 if in_halves("gpu" if job.gpu else "cpu", devices, numbers) else 1
    learnt = _most(
        _loop(job, split) | {"a microbatch's gradients": one_pass * MASTER},
        _prompts_backward(job, split) | {"the prompts' gradients": one_pass * MASTER},
    )
    update = {"gradients, summed": beside * trained * MASTER} | _most(
        {part: beside * size for part, size in learnt.items()},
        {"a weight's step": largest * MASTER, "moments, fetched": moments if job.offload else 0.0},
    )
    if job.overlap:
        update["completions drawn ahead"] = sum(_decoding(job, split, job.train).values())
    host = {
        "initial weights": numbers * MASTER,
        "a snapshot being written": (saved + moments) * devices / split.data,
        "moments, offloaded": moments * devices if job.offload else 0.0,
        "weights for the servers": numbers * job.dtype_bytes if job.served else 0.0,
    }
    sample = _most(*(_decoding(job, split, each) for each in (job.train, job.panel, job.report)))
    return Memory(stays, update, sample, host)


def _moment_bytes(job: Job, weight: Weight) -> float:
    """Of both moments of one number of a weight; in 8 bits every block has a float32 scale too."""
    if job.moments == "int8":
        return 2 * (1 + MASTER / block_size(weight.shape[-1]))
    return 2.0 * BYTES[job.moments]


def _trained(job: Job, split: Split) -> tuple[Weight, ...]:
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


def _most(*phases: dict[str, float]) -> dict[str, float]:
    """Of sets of buffers that are never held together the one that weighs most."""
    return max(phases, key=lambda parts: sum(parts.values()))


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


def _passes(job: Job, split: Split) -> tuple[Pass, Pass]:
    """All prompts of a step, and a microbatch of the widest rows that read prompts' keys."""
    problems, prompt = job.train.problems, job.prompt
    if problems % split.rows == 0:
        problems //= split.rows
    packing = packing_of(job, split.rows)
    rows, width = packing.microbatch_rows // split.rows, max(packing.row_tokens)
    seen = prompt + width
    return (
        Pass(problems * prompt, problems * prompt, problems * prompt**2),
        Pass(rows * width, rows * seen, rows * width * seen),
    )


def _loop(job: Job, split: Split) -> dict[str, float]:
    """What the loop over microbatches has beside the sums: of one microbatch, and of the prompts.

    The prompts are read before it and their backward pass comes after it.
    """
    decoder = job.decoder
    c = job.activation_bytes
    _, rows = _passes(job, split)
    vocabulary = decoder.vocab_size / _divisor(decoder.vocab_size, split.tensor)
    chunk = min(job.chunk_tokens / split.rows, rows.tokens)
    narrow = job.dtype_bytes < MASTER and not job.lora_rank
    head = {
        "head, compute copy": vocabulary * decoder.width * c if narrow or split.fsdp > 1 else 0.0,
        "logits of a chunk": LOGITS_COPIES * MASTER * chunk * vocabulary,
    }
    kept = {f"activations kept (remat={job.remat})": _kept_bytes(job, split, rows)}
    return _prompts(job, split) | kept | _most(_layer(job, split, rows), head)


def _prompts_backward(job: Job, split: Split) -> dict[str, float]:
    """What the backward pass through the prompts has beside the sums."""
    prompts, _ = _passes(job, split)
    return _prompts(job, split) | _layer(job, split, prompts)


def _prompts(job: Job, split: Split) -> dict[str, float]:
    """What lives of the prompts from their reading to their backward pass."""
    decoder = job.decoder
    prompts, _ = _passes(job, split)
    heads = decoder.kv_heads / _divisor(decoder.kv_heads, split.tensor)
    # Whole on every data device: any row may name any prompt.
    count = decoder.layers * job.train.problems * job.prompt * 2 * heads * decoder.head_dim
    return {
        "prompts, activations kept": _kept_bytes(job, split, prompts),
        "prompts' keys and values": count * job.activation_bytes,
        # Their sum in float32, and that of one microbatch.
        "the gradient of these": count * (MASTER + job.activation_bytes),
    }


def _kept_bytes(job: Job, split: Split, part: Pass) -> float:
    """What all layers keep of their forward pass for their backward pass, in bytes a device.

    With D the width, H and K the widths of queries and of keys, F the FFN's, c the bytes of what is
    kept and n tokens, a layer keeps its input, n D c (`layer`); the products with its weights too,
    n (2 D + H + 2 K + 2 F) c (`dots`); or all that `_layer_bytes` counts (`none`), and then the
    narrow weights that it multiplied by.
    """
    decoder, c = job.decoder, job.activation_bytes
    query, key, ffn = _widths(job, split)
    if job.remat == "none":
        narrow = job.dtype_bytes < MASTER and not job.lora_rank
        return decoder.layers * (
            _layer_bytes(job, split, part) + (_layer_weights(job, split) if narrow else 0.0)
        )
    products = decoder.width + query + 2 * key + 2 * ffn if job.remat == "dots" else 0.0
    return decoder.layers * part.tokens * (decoder.width + products) * c


def _layer(job: Job, split: Split, part: Pass) -> dict[str, float]:
    """The backward pass of one layer, which is cut from the stacked ones and gathered.

    Over fsdp its gradients are whole, too, until they are summed and scattered. A CPU's products
    (Eigen) copy all heads' scores into tiles, which the compiler does not count.
    """
    gathered = _layer_weights(job, split._replace(data=split.rows, fsdp=1))
    return {
        "one layer, backward": _layer_bytes(job, split, part),
        "its scores' gradient": _scores(job, split, part) * MASTER,
        "its scores in tiles": 0.0 if job.gpu else _scores(job, split, part) * MASTER,
        "one layer's weights": gathered,
        "one layer's gradients": 0.0 if split.fsdp == 1 or job.lora_rank else gathered,
    }


def _layer_weights(job: Job, split: Split) -> float:
    """One layer's weights as layers compute with them, in bytes a device."""
    blocks = sum(weight.shard for weight in weights(job.decoder, split) if weight.in_blocks)
    return blocks / job.decoder.layers * job.activation_bytes


def _layer_bytes(job: Job, split: Split, part: Pass) -> float:
    """All that the backward pass of one layer wants of its forward pass, in bytes a device.

    Norms keep a float32 copy of what comes in and of what is normed, and their result; attention
    its queries, its keys and values, its result and, where it is plain, scores in float32 and
    weights; a gated FFN six arrays (SwiGLU), or nine (GeGLU, whose tanh has a cubic inside).
    """
    decoder, c = job.decoder, job.activation_bytes
    query, key, ffn = _widths(job, split)
    names = [weight.name for weight in weights(decoder, Split(1, 1, 1)) if weight.in_blocks]
    widths = {"q_norm": query, "k_norm": key}
    normed = sum(widths.get(name, decoder.width) for name in names if name.endswith("_norm"))
    gated = 6 if decoder.activation == "silu" else 9
    return (
        part.tokens * (normed * (2 * MASTER + c) + (2 * query + gated * ffn) * c)
        + part.keys * 2 * key * c
        + _scores(job, split, part) * (MASTER + c)
    )


def _scores(job: Job, split: Split, part: Pass) -> float:
    """How many scores of attention a layer holds on a device; none where attention is fused."""
    heads = job.decoder.heads / _divisor(job.decoder.kv_heads, split.tensor)
    return 0.0 if job.fused_attention else heads * part.scores


def _widths(job: Job, split: Split) -> tuple[float, float, float]:
    """Of a device's queries, of its keys, and of its part of the FFN."""
    decoder, tensor = job.decoder, split.tensor
    query, key = (
        heads * decoder.head_dim / _divisor(heads, tensor)
        for heads in (decoder.heads, decoder.kv_heads)
    )
    return query, key, decoder.ffn_width / _divisor(decoder.ffn_width, tensor)


def _decoding(job: Job, split: Split, draws: Draws) -> dict[str, float]:
    """The batch that is decoded: its caches, and most that is beside them at one time.

    That is a layer of its prompts while they are read, which of attention keeps what comes in,
    queries, keys, values and, where it is plain, scores, and of the FFN what comes in, as it is and
    normed, and two of its arrays; then its logits; and once half of its rows have ended, the caches
    of the others, to which they are copied. Nothing where servers draw.
    """
    if job.served:
        return {}
    decoder = job.decoder
    prompt = 1 << max(5, math.ceil(math.log2(job.prompt)))
    room = math.ceil(job.max_new_tokens / CACHE_SEGMENT) * CACHE_SEGMENT
    heads = decoder.kv_heads / _divisor(decoder.kv_heads, split.tensor)
    column = 2 * decoder.layers * heads * decoder.head_dim * job.dtype_bytes
    query, key, ffn = _widths(job, split)

    rows, prompts = draws.held(split.rows)
    left, lanes = draws.held(split.rows, packed=True)
    count = rows / draws.group
    read = Pass(count * prompt, count * prompt, count * prompt**2)
    one = read.tokens * job.activation_bytes
    scores = SCORES_COPIES * MASTER * _scores(job, split, read)
    return {"keys and values": (prompts * prompt + rows * room) * column} | _most(
        {"prompts, attention": one * (decoder.width + query + 2 * key) + scores},
        {"prompts, FFN": one * 2 * (decoder.width + ffn)},
        {"logits": 2 * MASTER * rows * decoder.vocab_size},
        {"keys and values, packed": (lanes * prompt + left * room) * column},
    )


def _divisor(size: int, parts: int) -> int:
    """The parts that an axis is really split into: all, or none where they do not divide it."""
    return parts if size % parts == 0 else 1
