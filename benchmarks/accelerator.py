"""What only an accelerator can show: utilization, decoding against its floor, a snapshot."""

import math
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.batch import CHUNK_TOKENS, RANDOM, Updates, named_policy, random_batch
from benchmarks.peer import matmul_ceiling, read_bandwidth
from benchmarks.table import show
from selfreg.checkpoint import Checkpoints
from selfreg.config import default
from selfreg.learn.packing import make_packing
from selfreg.mesh import make_mesh
from selfreg.models.policy import Policy, count_parameters
from selfreg.plan.job import make_job
from selfreg.plan.memory import estimate
from selfreg.plan.weights import Split
from selfreg.plan.work import pair_flops, token_flops
from selfreg.records import Request, Sampling
from selfreg.rollout.jax_engine import JaxEngine
from selfreg.validate import resolve

MODELS = ("Qwen/Qwen2.5-3B-Instruct", "Qwen/Qwen2.5-7B-Instruct")
ROWS, PROMPT, COMPLETION = 16, 256, 768  # 16 x 1024 tokens
AT_ONCE = 4
DECODED_ROWS, DECODED = 64, 256
ROUNDS = 3
# What Adam's moments are kept in, the fastest first; offloaded where even 8 bits are too many.
MOMENTS = (("float32", False), ("bfloat16", False), ("int8", False), ("int8", True))


def show_accelerator(models: tuple[str, ...], remat: str) -> None:
    """Measure on the device that jax has, or say that there is none."""
    if jax.default_backend() != "gpu":
        print("Utilization, decoding and snapshots of 3B and 7B shapes: not run: no GPU.\n")
        return
    size = 8192
    ceiling, bandwidth = matmul_ceiling("bfloat16", size), read_bandwidth("bfloat16", 2**30)
    show(
        f"{jax.devices()[0].device_kind}: random weights, bfloat16, {ROWS} x {PROMPT + COMPLETION} "
        f"tokens; decoding {DECODED_ROWS} rows",
        [
            "model", "moments", "update s", "of ceiling", "decode tok/s", "of floor",
            "snapshot s", "peak GB", "planned",
        ],
        [measure(model, remat, ceiling, bandwidth) for model in models],
        f"Ceiling: {ceiling / 1e12:.0f} TFLOP/s, a {size}-square bfloat16 product. Counted are the "
        "model's own FLOPs, the shared prompt once, nothing that is computed again. Floor: the "
        f"weights and the caches, read once a token at {bandwidth / 1e9:.0f} GB/s (a sum). Moments "
        "are the first of float32, bfloat16, int8 and int8 in the host's memory that the planner "
        f"lets fit, here with remat {remat}.",
    )  # fmt: skip


def measure(name: str, remat: str, ceiling: float, bandwidth: float) -> list[str]:
    """One model's row."""
    policy, params = named_policy(RANDOM + name, remat=remat)
    stats = jax.devices()[0].memory_stats() or {}
    moments, offload, planned = _fitting(policy, remat, stats.get("bytes_limit", math.inf))
    decode_s, floor_s = _decode(policy, params, bandwidth)
    packing = make_packing((), AT_ONCE, COMPLETION, AT_ONCE, devices=1)
    batch = random_batch(policy.config.vocab_size, PROMPT, COMPLETION, ROWS, packing)
    update = Updates(
        policy, params, batch, dtype="bfloat16", packing=packing, moments=moments, offload=offload
    )
    del params
    update_s = _seconds(update)
    stats = jax.devices()[0].memory_stats() or {}
    tokens = DECODED_ROWS * DECODED
    return [
        name, moments + (", offloaded" if offload else ""),
        f"{update_s:.2f}", f"{_flops(policy) / update_s / ceiling:.0%}",
        f"{tokens / decode_s:,.0f}", f"{floor_s / decode_s:.0%}", _snapshot(update.state),
        f"{stats.get('peak_bytes_in_use', math.nan) / 1e9:.1f}", f"{planned / 1e9:.1f}",
    ]  # fmt: skip


def _fitting(policy: Policy, remat: str, room: float) -> tuple[str, bool, float]:
    """The first of MOMENTS with which an update fits, or the last, and the bytes it is planned."""
    config = default()
    config.model.remat, config.model.dtype = remat, "bfloat16"
    config.rollout.group_size, config.learn.microbatch_rows = ROWS, AT_ONCE
    config.learn.logprob_chunk_tokens = CHUNK_TOKENS
    config.rollout.max_prompt_tokens, config.rollout.max_new_tokens = PROMPT, COMPLETION
    job = make_job(resolve(config), policy.config, gpu=jax.default_backend() == "gpu")
    for moments, offload in MOMENTS:
        tried = replace(job, moments=moments, offload=offload)
        memory = estimate(tried, Split(1, 1, 1))
        # No engine stands beside the update here.
        own = {part: size for part, size in memory.stays.items() if not part.startswith("engine")}
        planned = sum(own.values()) + sum(memory.update.values())
        if planned <= room:
            break
    return moments, offload, planned


def _flops(policy: Policy) -> float:
    """Of an update, forward and backward."""
    matrices, head = token_flops(policy.config)
    tokens = PROMPT + ROWS * COMPLETION
    pairs = pair_flops(policy.config, 0, PROMPT)
    pairs += ROWS * pair_flops(policy.config, PROMPT, COMPLETION)
    return 3 * (tokens * matrices + ROWS * COMPLETION * head + pairs)


def _decode(policy: Policy, params: Any, bandwidth: float) -> tuple[float, float]:
    """Seconds to decode a group, prefill left out, and those of reading what it must."""
    config = policy.config
    forever = replace(policy, stop_ids=(-2,))  # never drawn
    engine = JaxEngine(forever, make_mesh(-1, 1, 1), dtype="bfloat16", max_sequences=DECODED_ROWS)
    engine.load_params(params)
    request = Request(np.ones(PROMPT, np.int32), np.arange(DECODED_ROWS, dtype=np.uint32))
    segment = 16

    def draw(tokens: int) -> float:
        sampling = Sampling(0.7, 1.0, 0, tokens)
        return _seconds(lambda: engine.generate([request], sampling))

    seconds = (draw(DECODED) - draw(segment)) * DECODED / (DECODED - segment)
    column = 4 * config.layers * config.kv_heads * config.head_dim
    cache = DECODED_ROWS * (PROMPT + DECODED / 2) * column
    return seconds, DECODED * (2 * count_parameters(params) + cache) / bandwidth


def _snapshot(state: Any) -> str:
    """Seconds that a snapshot holds the run up, and until it is on disk."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder), 0)
        begun = time.perf_counter()
        checkpoints.save(0, state._asdict())
        held = time.perf_counter() - begun
        checkpoints.close()
        return f"{held:.1f} ({time.perf_counter() - begun:.1f} on disk)"


def _seconds(action: Any) -> float:
    """The fastest of a few runs after one that warms up."""
    times = []
    for _ in range(ROUNDS + 1):
        begun = time.perf_counter()
        jax.block_until_ready(action())
        times.append(time.perf_counter() - begun)
    return min(times[1:])
