"""Bytes a device of the engine's programs: weights handed over, caches, and what is beside them."""

import math

from selfreg.cli.plan.job import Draws, Job
from selfreg.cli.plan.weights import MASTER, Pass, Split, divisor, scores_of, weights, widths

SCORES_COPIES = 2  # of prompts that decoding reads: scores, and their softmax
CACHE_SEGMENT = 16  # the decoding cache grows by whole segments
Parts = dict[str, float]


def engine_weights(job: Job, split: Split) -> float:
    """The engine's weights: whole over fsdp, as decoding would gather them at every token."""
    whole = Split(split.rows, 1, split.tensor)
    return sum(weight.shard for weight in weights(job.decoder, whole)) * job.dtype_bytes


def hand_over(job: Job, split: Split) -> Parts:
    """What handing weights to the engine holds beside the trainer's and the engine's.

    Adapters are merged, and weights gathered, layer after layer. Over fsdp most matrices are
    gathered along their innermost axis: what XLA gathers it has still to turn round. It turns one
    matrix of every layer at a time, at the end.
    """
    if job.served or not job.gpu or split.fsdp == 1:
        return {}
    whole = weights(job.decoder, Split(split.rows, 1, split.tensor))
    blocks = [weight.shard for weight in whole if weight.in_blocks]
    return {
        "weights, gathered": max(blocks) * job.dtype_bytes,
        "one layer's weights": sum(blocks) / job.decoder.layers * job.dtype_bytes,
    }


def decoding(job: Job, split: Split, draws: Draws) -> dict[str, Parts]:
    """What the programs of one turn hold beside the engine's weights, by program; {} where served.

    `prefill` reads the prompts. The most that it has at one time is in a layer: of attention what
    comes in, queries, keys, values and, where it is plain, scores; or of the FFN what comes in, as
    it is and normed, and two of its arrays. A GPU's program has six arrays of the width there: what
    the layer and its halves come in with and hand on lies beside what their products make.
    `segment` has a token's logits. `pack` copies what half of the rows have to caches of their own.
    """
    if job.served:
        return {}
    decoder = job.decoder
    prompt = 1 << max(5, math.ceil(math.log2(job.prompt)))
    room = math.ceil(job.max_new_tokens / CACHE_SEGMENT) * CACHE_SEGMENT
    heads = decoder.kv_heads / divisor(decoder.kv_heads, split.tensor)
    column = 2 * decoder.layers * heads * decoder.head_dim * job.dtype_bytes
    query, key, ffn = widths(job, split)

    rows, prompts = draws.held(split.rows)
    left, lanes = draws.held(split.rows, packed=True)
    count = draws.prompts(split.rows)
    caches = {"prompts' keys and values": prompts * prompt * column}
    caches |= {"completions' keys and values": rows * room * column}
    read = Pass(count * prompt, count * prompt, count * prompt**2)
    one = read.tokens * job.activation_bytes
    scores = SCORES_COPIES * MASTER * scores_of(job, split, read)
    beside = 6 if job.gpu else 2
    layer = max(
        {"prompts, attention": one * (decoder.width + query + 2 * key) + scores},
        {"prompts, FFN": one * (beside * decoder.width + 2 * ffn)},
        key=lambda parts: sum(parts.values()),
    )
    logits = {"logits": 2 * MASTER * rows * decoder.vocab_size}
    packed = {"keys and values, packed": (lanes * prompt + left * room) * column}
    return {
        "prefill": caches | layer,
        "segment": caches | logits,
        "pack": caches | packed,
    }


def most(phases: dict[str, Parts]) -> Parts:
    """Of sets of buffers that are never held together the one that weighs most; {} of none."""
    return max(phases.values(), key=lambda parts: sum(parts.values()), default={})


def busiest(job: Job, split: Split) -> Draws:
    """The draws whose batch takes most memory: a step's, a panel's or a report panel's."""
    draws = (job.train, job.panel, job.report)
    return max(draws, key=lambda each: sum(most(decoding(job, split, each)).values()))
