"""Estimate the bytes per device of an update and of scoring, besides weights and moments."""

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

# Arrays of the vocabulary's width that a chunk of logprobs holds at once: the logits, their
# log-softmax, and the gradient.
LOGITS_COPIES = 3
# float32 arrays that an optimizer step with coded moments holds at once.
STEP_COPIES = {"bfloat16": 3, "int8": 4}
TURNED = ("q", "k", "v", "gate", "up", "head")


def learning(job: Job, split: Split) -> dict[str, float]:
    """Return the peak bytes of an update besides weights and moments, by part."""
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
    """Return the temporary bytes of the optimizer's step of one weight.

    The step handles a whole stack of layers, or one layer at a time if the moments are coded.
    Coding holds the float32 moments at the same time as the change of the weight or random bits.
    """
    learns = trained(job, split)
    if job.moments == "float32":
        return max(weight.shard for weight in learns) * MASTER
    at_once = (
        weight.shard / (weight.shape[0] if len(weight.shape) > 2 else 1) for weight in learns
    )
    return max(at_once) * STEP_COPIES[job.moments] * MASTER


def _turned(job: Job, split: Split) -> float:
    """Return the bytes of the transposed copies of weights that an update on a GPU holds.

    Devices gather along the outermost axis, but fsdp splits most matrices along the innermost one.
    So XLA transposes the stacks of these matrices once, before the loops.
    """
    if not job.gpu or split.fsdp == 1:
        return 0.0
    size = job.dtype_bytes if job.lora_rank else MASTER
    owned = weights(job.decoder, split)
    return sum(w.shard for w in owned if w.name in TURNED) * size


def _own_gradients(job: Job, split: Split) -> float:
    """Return the bytes of the block gradients of one microbatch, held beside their sum.

    Devices that hold copies of the weights must sum their gradients. XLA moves this sum out of the
    loop over layers. So it holds the gradients of all layers for one microbatch, beside the sum
    over microbatches. It does not do so if matrices are split too. (This was seen in one compiled
    program, of 7B on data 2 x fsdp 4 x tensor 2.)
    """
    if not job.gpu or split.data == 1 or split.tensor > 1:
        return 0.0
    return sum(weight.shard for weight in trained(job, split) if weight.in_blocks) * MASTER


def scoring(job: Job, split: Split) -> dict[str, float]:
    """Return the peak bytes of a pass that scores completions, besides the weights, by part."""
    return _loop(job, split)


def _most(*phases: dict[str, float]) -> dict[str, float]:
    """Return the largest of sets of buffers that are never held at the same time."""
    return max(phases, key=lambda parts: sum(parts.values()))


def _passes(job: Job, split: Split) -> tuple[Pass, Pass]:
    """Return the pass over a step's prompts, and that of a microbatch of the widest rows.

    The rows of a microbatch attend to the keys of their prompts too.
    """
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
    """Return the bytes that the loop over microbatches holds, besides the summed gradients.

    They belong to one microbatch and to the prompts. The prompts are read before the loop, and
    their backward pass comes after it.
    """
    decoder = job.decoder
    c = job.activation_bytes
    _, rows = _passes(job, split)
    vocabulary = decoder.vocab_size / divisor(decoder.vocab_size, split.tensor)
    chunk = min(job.chunk_tokens / split.rows, rows.tokens)
    narrow = job.dtype_bytes < MASTER and not job.lora_rank
    head = {
        "head, compute copy": vocabulary * decoder.width * c if narrow or split.fsdp > 1 else 0.0,
        # It is summed over the chunks. A single chunk writes it directly into the result.
        "head's gradient": 0.0
        if job.lora_rank or chunk >= rows.tokens
        else vocabulary * decoder.width * c,
        "logits of a chunk": LOGITS_COPIES * MASTER * chunk * vocabulary,
    }
    kept = {f"activations kept (remat={job.remat})": _kept_bytes(job, split, rows)}
    # Devices that hold copies of the weights sum it in float32 before it is scattered over fsdp.
    summed = {
        "head's gradient": head["head's gradient"],
        "head's gradient, float32": 2 * head["head's gradient"] if narrow else 0.0,
    }
    phases = [_layer(job, split, rows), head, *([summed] if job.gpu and split.data > 1 else [])]
    if job.gpu and split.fsdp > 1:  # gathered along its innermost axis, then transposed
        phases.append({name: 2 * size for name, size in head.items() if "copy" in name})
    return _prompts(job, split) | kept | _most(*phases)


def _prompts_backward(job: Job, split: Split) -> dict[str, float]:
    """Return the bytes of the backward pass through the prompts, besides the summed gradients."""
    prompts, _ = _passes(job, split)
    return _prompts(job, split) | _layer(job, split, prompts)


def _prompts(job: Job, split: Split) -> dict[str, float]:
    """Return the bytes that the prompts hold from their forward to their backward pass."""
    decoder = job.decoder
    prompts, _ = _passes(job, split)
    heads = decoder.kv_heads / divisor(decoder.kv_heads, split.tensor)
    # Every data device holds the keys and values of all prompts, because a row may use any of them.
    count = decoder.layers * job.train.problems * job.prompt * 2 * heads * decoder.head_dim
    return {
        "prompts, activations kept": _kept_bytes(job, split, prompts),
        "prompts' keys and values": count * job.activation_bytes,
        # It is held twice: summed in float32, and for one microbatch.
        "the gradient of these": count * (MASTER + job.activation_bytes),
    }


def _kept_bytes(job: Job, split: Split, part: Pass) -> float:
    """Return the bytes that all layers store in the forward pass for the backward pass.

    Let D, H, K and F be the widths of the model, of queries, of keys and of the FFN, c the bytes of
    a stored number, and n the number of tokens. With remat `layer`, a layer stores only its input,
    n D c. With `dots`, it stores the products with its weights too, n (2 D + H + 2 K + 2 F) c in
    all. With `none`, it stores everything that `_layer_bytes` counts, and also the compute copies
    of its weights if these are narrower than float32.
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
    """Return the bytes of the backward pass of one layer, whose weights are sliced and gathered.

    With fsdp, the gradient of one matrix at a time is whole until it is scattered and added to its
    sum. On a CPU, Eigen's products copy the scores of all heads into tiles, which the compiler does
    not count.
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
    """Return the bytes per device of one layer's weights, in the type that layers compute in."""
    blocks = sum(weight.shard for weight in weights(job.decoder, split) if weight.in_blocks)
    return blocks / job.decoder.layers * job.activation_bytes


def _layer_bytes(job: Job, split: Split, part: Pass) -> float:
    """Return the bytes that the backward pass of one layer needs from its forward pass.

    A norm stores its input and the normed values in float32, and its result. Attention stores its
    queries, keys, values and result. Plain attention also stores the scores in float32 and the
    attention weights. A gated FFN stores six arrays for SwiGLU, or nine for GeGLU, whose tanh has a
    cubic argument.
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
