"""Estimate the bytes per device of the engine's programs: weights, caches and temporaries."""

import math

from selfreg.cli.plan.job import Draws, Job
from selfreg.cli.plan.weights import MASTER, Pass, Split, divisor, scores_of, weights, widths

SCORES_COPIES = 2  # prefill holds the attention scores and their softmax
CACHE_SEGMENT = 16  # the decoding cache grows by whole segments
Parts = dict[str, float]


def engine_weights(job: Job, split: Split) -> float:
    """Return the bytes of the engine's weights on a device.

    They are not split over fsdp, because decoding would have to gather them for every token.
    """
    whole = Split(split.rows, 1, split.tensor)
    return sum(weight.shard for weight in weights(job.decoder, whole)) * job.dtype_bytes


def hand_over(job: Job, split: Split) -> Parts:
    """Return the temporary bytes of a weight hand-over, besides the trainer's and engine's weights.

    The program merges adapters and gathers weights layer by layer. fsdp splits most matrices along
    their innermost axis, so XLA has to transpose what it gathers. It does so at the end, for one
    matrix of all layers at a time.
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
    """Return the bytes besides the engine's weights in one turn, by program; {} if SGLang serves.

    `prefill` reads the prompts. Its peak is within a layer. It is either in the attention (its
    input, queries, keys, values and, for plain attention, the scores) or in the FFN (its input, the
    normed input, and two arrays of the FFN's width). On a GPU, the FFN holds six arrays of the
    model's width instead of two, because inputs and outputs of the layer and of its halves are kept
    beside the products. `segment` holds the logits of a token. `pack` copies the caches of the rows
    that are left, about half of them, into smaller caches.
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
    """Return the largest of sets of buffers that are never held at the same time; {} for none."""
    return max(phases.values(), key=lambda parts: sum(parts.values()), default={})


def busiest(job: Job, split: Split) -> Draws:
    """Return the draws that need the most memory: those of a step, a panel or a report panel."""
    draws = (job.train, job.panel, job.report)
    return max(draws, key=lambda each: sum(most(decoding(job, split, each)).values()))
