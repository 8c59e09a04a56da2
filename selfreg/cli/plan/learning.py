"""Bytes a device of an update and of scoring: what they hold beside weights and moments."""

import math

from selfreg.cli.plan.job import Job, packing_of
from selfreg.cli.plan.weights import (
    MASTER,
    Pass,
    Split,
    divisor,
    scores_of,
    trained,
    weights,
    widths,
)
from selfreg.policy.learn.packing import in_halves

# Arrays as wide as the vocabulary that a chunk of logprobs has at once: logits, their
# log-softmax, and the gradient.
LOGITS_COPIES = 3
# float32 arrays that a step with coded moments has at once.
STEP_COPIES = {"bfloat16": 3, "int8": 4}
TURNED = ("q", "k", "v", "gate", "up", "head")


def learning(job: Job, split: Split) -> dict[str, float]:
    """What an update holds beside weights and moments, at the most."""
    count = sum(weight.shard for weight in trained(job, split))
    numbers = sum(weight.size for weight in weights(job.decoder, split))
    platform = "gpu" if job.gpu else "cpu"
    beside = 2 if in_halves(platform, math.prod(split), numbers) else 1
    whole = {
        "weights, turned to be gathered": _turned(job, split),
        "a microbatch's own gradients": _own_gradients(job, split),
    }
    learnt = _most(whole | _loop(job, split), whole | _prompts_backward(job, split))
    return {"gradients, summed": beside * count * MASTER} | _most(
        {part: beside * size for part, size in learnt.items()},
        {"a weight's step": _step(job, split)},
    )


def _step(job: Job, split: Split) -> float:
    """The optimizer's step of one weight: of a whole stack, or where moments are coded of a layer.

    Coding has float32 moments and what is added to the weight, or random bits, at one time.
    """
    learns = trained(job, split)
    if job.moments == "float32":
        return max(weight.shard for weight in learns) * MASTER
    at_once = (
        weight.shard / (weight.shape[0] if len(weight.shape) > 2 else 1) for weight in learns
    )
    return max(at_once) * STEP_COPIES[job.moments] * MASTER


def _turned(job: Job, split: Split) -> float:
    """Weights that a GPU's update holds a second time, in bytes a device.

    Devices gather along the outermost axis. Of most matrices fsdp splits the innermost one: XLA
    turns their stacks round once, before the loops.
    """
    if not job.gpu or split.fsdp == 1:
        return 0.0
    size = job.dtype_bytes if job.lora_rank else MASTER
    owned = weights(job.decoder, split)
    return sum(w.shard for w in owned if w.name in TURNED) * size


def _own_gradients(job: Job, split: Split) -> float:
    """Gradients of the blocks of one microbatch, in bytes a device.

    Copies of the weights sum theirs up. XLA takes that sum out of the loop over layers, and so
    holds the layers' gradients of a microbatch beside those of all; but not where matrices are
    split too (seen in one compiled program, of 7B on data 2 x fsdp 4 x tensor 2).
    """
    if not job.gpu or split.data == 1 or split.tensor > 1:
        return 0.0
    return sum(weight.shard for weight in trained(job, split) if weight.in_blocks) * MASTER


def scoring(job: Job, split: Split) -> dict[str, float]:
    """What a pass that scores completions holds beside the weights, at the most."""
    return _loop(job, split)


def _most(*phases: dict[str, float]) -> dict[str, float]:
    """Of sets of buffers that are never held together the one that weighs most."""
    return max(phases, key=lambda parts: sum(parts.values()))


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
    vocabulary = decoder.vocab_size / divisor(decoder.vocab_size, split.tensor)
    chunk = min(job.chunk_tokens / split.rows, rows.tokens)
    narrow = job.dtype_bytes < MASTER and not job.lora_rank
    head = {
        "head, compute copy": vocabulary * decoder.width * c if narrow or split.fsdp > 1 else 0.0,
        # Summed over the chunks; of one chunk it goes where it belongs.
        "head's gradient": 0.0
        if job.lora_rank or chunk >= rows.tokens
        else vocabulary * decoder.width * c,
        "logits of a chunk": LOGITS_COPIES * MASTER * chunk * vocabulary,
    }
    kept = {f"activations kept (remat={job.remat})": _kept_bytes(job, split, rows)}
    # Copies of the weights sum up theirs in float32, before it is scattered over fsdp.
    summed = {
        "head's gradient": head["head's gradient"],
        "head's gradient, float32": 2 * head["head's gradient"] if narrow else 0.0,
    }
    phases = [_layer(job, split, rows), head, *([summed] if job.gpu and split.data > 1 else [])]
    if job.gpu and split.fsdp > 1:  # gathered along its innermost axis, and then turned
        phases.append({name: 2 * size for name, size in head.items() if "copy" in name})
    return _prompts(job, split) | kept | _most(*phases)


def _prompts_backward(job: Job, split: Split) -> dict[str, float]:
    """What the backward pass through the prompts has beside the sums."""
    prompts, _ = _passes(job, split)
    return _prompts(job, split) | _layer(job, split, prompts)


def _prompts(job: Job, split: Split) -> dict[str, float]:
    """What lives of the prompts from their reading to their backward pass."""
    decoder = job.decoder
    prompts, _ = _passes(job, split)
    heads = decoder.kv_heads / divisor(decoder.kv_heads, split.tensor)
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
    query, key, ffn = widths(job, split)
    if job.remat == "none":
        narrow = job.dtype_bytes < MASTER and not job.lora_rank
        return decoder.layers * (
            _layer_bytes(job, split, part) + (_layer_weights(job, split) if narrow else 0.0)
        )
    products = decoder.width + query + 2 * key + 2 * ffn if job.remat == "dots" else 0.0
    return decoder.layers * part.tokens * (decoder.width + products) * c


def _layer(job: Job, split: Split, part: Pass) -> dict[str, float]:
    """The backward pass of one layer, which is cut from the stacked ones and gathered.

    Over fsdp a gradient is whole, too, until it is scattered and added to its sum: one at a time. A
    CPU's products (Eigen) copy all heads' scores into tiles, which the compiler does not count.
    """
    whole = split._replace(data=split.rows, fsdp=1)
    gathered = _layer_weights(job, whole)
    largest = max(weight.shard for weight in weights(job.decoder, whole) if weight.in_blocks)
    gradient = largest / job.decoder.layers * job.activation_bytes
    return {
        "one layer, backward": _layer_bytes(job, split, part),
        "its scores' gradient": scores_of(job, split, part) * MASTER,
        "its scores in tiles": 0.0 if job.gpu else scores_of(job, split, part) * MASTER,
        "one layer's weights": gathered,
        "a layer's largest gradient": 0.0 if split.fsdp == 1 or job.lora_rank else gradient,
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
    query, key, ffn = widths(job, split)
    names = [weight.name for weight in weights(decoder, Split(1, 1, 1)) if weight.in_blocks]
    of_heads = {"q_norm": query, "k_norm": key}
    normed = sum(of_heads.get(name, decoder.width) for name in names if name.endswith("_norm"))
    gated = 6 if decoder.activation == "silu" else 9
    return (
        part.tokens * (normed * (2 * MASTER + c) + (2 * query + gated * ffn) * c)
        + part.keys * 2 * key * c
        + scores_of(job, split, part) * (MASTER + c)
    )
