"""Measure on an accelerator: utilization, decoding speed relative to its bound, and a real chain.

    python -m benchmarks.accelerator                            # at most 8 minutes on one H200
    python -m benchmarks.accelerator --compile --device=H200    # its programs, without a GPU

The first half uses 3B and 7B shapes with random weights. It measures the FLOP/s of an update
relative to a matrix product's, the speed of decoding relative to reading the weights, the time to
hand weights over, and a snapshot. The second half runs a short chain of the tiny policy on the GPU
and on the CPU. Their curves should agree within standard errors. --compile needs the extra
`gpu-compile`. It shows that the programs of the first half compile, and how much memory they need.
"""

import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags

from benchmarks.accelerator_job import COMPLETION, DECODED_ROWS, PROMPT, ROWS, first_that_fits
from benchmarks.batch import LR, TEMPERATURE, of_shape, random_batch
from benchmarks.ceiling import matmul_ceiling, read_bandwidth
from benchmarks.table import show
from selfreg.cli.plan.compiled import PROGRAMS, compile_programs
from selfreg.cli.plan.deviceless import described_devices
from selfreg.cli.plan.devices import DEVICES
from selfreg.cli.plan.memory import of_programs
from selfreg.cli.plan.weights import Split
from selfreg.cli.plan.work import pair_flops, token_flops
from selfreg.loop.stages import learner_of, packing_of
from selfreg.policy import xla
from selfreg.policy.mesh import make_mesh
from selfreg.policy.models.lora import random_adapters
from selfreg.policy.models.policy import Policy, count_parameters, random_params
from selfreg.policy.models.presets import shape_of
from selfreg.policy.rollout.jax_engine import JaxEngine
from selfreg.run import rundir
from selfreg.run.checkpoint import Checkpoints
from selfreg.run.records import Request, Sampling

MODELS = ("Qwen/Qwen2.5-3B-Instruct", "Qwen/Qwen2.5-7B-Instruct")
_MODELS = flags.DEFINE_list("models", list(MODELS), "Model shapes, by their names on the hub.")
_COMPILE = flags.DEFINE_bool("compile", False, "Compile for --device without having one.")
_DEVICE = flags.DEFINE_string("device", "H200", f"One of {', '.join(DEVICES)}.")
_STEPS = flags.DEFINE_integer("steps", 16, "Updates of the chain on each device. 0: no chain.", 0)
DECODED, SEGMENT = 256, 16
ROUNDS = 3


def main(_: list[str]) -> None:
    """Measure on JAX's GPU, or compile for one."""
    xla.set_up()
    if _COMPILE.value:
        _show_compiled()
    elif jax.default_backend() != "gpu":
        print("Not run, because JAX has no GPU: utilization, decoding, snapshots, a chain.")
    else:
        _show_measured()
        if _STEPS.value:
            _show_chains()


def _show_compiled() -> None:
    """Print the memory that the measured programs need on a device, according to the compiler."""
    device = DEVICES[_DEVICE.value]
    mesh = make_mesh(1, 1, 1, devices=described_devices(_DEVICE.value, 1))
    rows = []
    for name in _MODELS.value:
        chosen = first_that_fits(shape_of(name), device.memory_gb * 1e9 * device.memory_fraction)
        if chosen is None:
            print(f"{name}: not compiled, because no setting is planned to fit.")
            continue
        planned = of_programs(chosen.job, Split(1, 1, 1))
        programs = ("update", "unstack", "prefill", "segment")
        for program, found in compile_programs(chosen.config, chosen.job, mesh, programs):
            sizes = planned[program], found.peak
            rows.append([
                name, chosen.words, PROGRAMS[program], *(f"{size / 1e9:.1f}" for size in sizes),
                found.attention, f"{found.seconds:.0f}",
            ])  # fmt: skip
    show(
        f"Compiled for {_DEVICE.value}: GB, and seconds to compile",
        ["model", "moments", "program", "planned", "compiled", "attention", "s"],
        rows,
        "No kernel was run or timed.",
    )


def _show_measured() -> None:
    size = 8192
    ceiling, bandwidth = matmul_ceiling("bfloat16", size), read_bandwidth("bfloat16", 2**30)
    show(
        f"{jax.devices()[0].device_kind}: random weights, bfloat16, {ROWS} x {PROMPT + COMPLETION} "
        f"tokens; decoding {DECODED_ROWS} rows",
        [
            "model", "moments", "update s", "of ceiling", "decode tok/s", "of floor",
            "hand-over s", "snapshot s", "peak GB", "planned",
        ],
        [measure(model, ceiling, bandwidth) for model in _MODELS.value],
        f"Ceiling: {ceiling / 1e12:.0f} TFLOP/s, from a {size}-square bfloat16 product. FLOPs are "
        "the model's own: the shared prompt counts once, and recomputation does not count. Floor: "
        f"reading the weights and the caches once per token at {bandwidth / 1e9:.0f} GB/s, from a "
        "sum. Moments: the first setting in benchmarks.accelerator_job for which an update is "
        "planned to fit.",
    )  # fmt: skip


def measure(name: str, ceiling: float, bandwidth: float) -> list[str]:
    """Measure one model, and return its row of the table."""
    decoder = shape_of(name)
    stats = jax.devices()[0].memory_stats() or {}
    chosen = first_that_fits(decoder, stats.get("bytes_limit", math.inf))
    if chosen is None:
        return [name, "none fits", *["-"] * 8]
    policy, mesh = of_shape(decoder, remat=chosen.config.model.remat), make_mesh(-1, 1, 1)
    params = random_params(decoder, seed=0)
    handed_s, decode_s, floor_s = _decode(policy, params, bandwidth)
    rank, packing = chosen.config.model.lora_rank, packing_of(chosen.config, mesh)
    learner = learner_of(chosen.config, policy, mesh, packing, params if rank else None)
    trained = random_adapters(policy, rank, np.random.default_rng(0)) if rank else params
    state = learner.init(trained)
    del params, trained
    batch = random_batch(decoder.vocab_size, PROMPT, COMPLETION, ROWS, packing)

    def update() -> Any:
        nonlocal state
        state, metrics = learner.update(state, batch, None, LR, 0.0, TEMPERATURE)
        return metrics

    update_s = _seconds(update)
    stats = jax.devices()[0].memory_stats() or {}
    tokens = DECODED_ROWS * DECODED
    return [
        name, chosen.words, f"{update_s:.2f}", f"{_flops(policy, rank) / update_s / ceiling:.0%}",
        f"{tokens / decode_s:,.0f}", f"{floor_s / decode_s:.0%}", f"{handed_s:.2f}",
        _snapshot(state), f"{stats.get('peak_bytes_in_use', math.nan) / 1e9:.1f}",
        f"{of_programs(chosen.job, Split(1, 1, 1))['update'] / 1e9:.1f}",
    ]  # fmt: skip


def _flops(policy: Policy, rank: int) -> float:
    """Return the FLOPs of an update, forward and backward. Frozen weights have no gradient."""
    matrices, head = token_flops(policy.config)
    tokens = PROMPT + ROWS * COMPLETION
    pairs = pair_flops(policy.config, 0, PROMPT)
    pairs += ROWS * pair_flops(policy.config, PROMPT, COMPLETION)
    return (2 if rank else 3) * (tokens * matrices + ROWS * COMPLETION * head) + 3 * pairs


def _decode(policy: Policy, params: Any, bandwidth: float) -> tuple[float, float, float]:
    """Return the seconds to hand weights over and to decode a group, and the bound of the latter.

    Decoding excludes the prefill. Its bound is the time to read the weights and caches.
    """
    config = policy.config
    forever = replace(policy, stop_ids=(-2,))  # an id that is never drawn, so no row stops
    engine = JaxEngine(forever, make_mesh(-1, 1, 1), dtype="bfloat16", max_sequences=DECODED_ROWS)
    request = Request(np.ones(PROMPT, np.int32), np.arange(DECODED_ROWS, dtype=np.uint32))

    def hand_over() -> Any:
        engine.load_params(params)
        return engine._weights

    handed_s = _seconds(hand_over)

    def draw(tokens: int) -> float:
        sampling = Sampling(TEMPERATURE, 1.0, 0, tokens)
        return _seconds(lambda: engine.generate([request], sampling))

    seconds = (draw(DECODED) - draw(SEGMENT)) * DECODED / (DECODED - SEGMENT)
    column = 4 * config.layers * config.kv_heads * config.head_dim
    cache = DECODED_ROWS * (PROMPT + DECODED / 2) * column
    return handed_s, seconds, DECODED * (2 * count_parameters(params) + cache) / bandwidth


def _snapshot(state: Any) -> str:
    """Return the seconds for which a snapshot blocks the run, and until it is on disk."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder), 0)
        begun = time.perf_counter()
        checkpoints.save(0, state._asdict())
        held = time.perf_counter() - begun
        checkpoints.close()
        return f"{held:.1f} ({time.perf_counter() - begun:.1f} on disk)"


def _seconds(action: Callable[[], Any]) -> float:
    """Return the seconds of the fastest of ROUNDS runs after a warm-up run."""
    times = []
    for _ in range(ROUNDS + 1):
        begun = time.perf_counter()
        jax.block_until_ready(action())
        times.append(time.perf_counter() - begun)
    return min(times[1:])


def _show_chains() -> None:
    """Print panel scores of the same short chain on GPU and CPU, and their differences."""
    gpu, cpu = (_curve(platform) for platform in ("cuda", "cpu"))
    rows, off = [], []
    for step in sorted(gpu):
        (a, a_se), (b, b_se) = gpu[step], cpu[step]
        off.append(abs(a - b) / max(math.hypot(a_se, b_se), 1e-9))
        words = [f"{score:.3f} ± {error:.3f}" for score, error in (gpu[step], cpu[step])]
        rows.append([str(step), *words, f"{off[-1]:.1f}"])
    show(
        f"The tiny policy under A0, seed 7, {_STEPS.value} updates: panel pass@1",
        ["step", "GPU", "CPU", "differ by SE"],
        rows,
        f"The largest difference is {max(off):.1f} standard errors of the difference. Both start "
        "from the same weights and seeds. Different rounding makes them draw different tokens.",
    )


def _curve(platform: str) -> dict[int, tuple[float, float]]:
    """Run a chain in a separate process, and return panel pass@1 and its standard error by step."""
    # The other process must not preallocate, because this one may hold three quarters of the GPU.
    settings = {"JAX_PLATFORMS": platform, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "selfreg.main", "--config=configs/tiny.py", "--config.seed=7",
            "--config.condition=A0", "--config.campaigns=1",
            f"--config.campaign_budget_steps={_STEPS.value}", f"--workdir={folder}/run",
        ]  # fmt: skip
        subprocess.run(command, check=True, env=os.environ | settings, stdout=subprocess.DEVNULL)
        records = rundir.read_records(Path(folder, "run"))
    names = "panel_pass_at_1", "panel_pass_at_1_se"
    return {
        record.step: (record.metrics[names[0]], record.metrics[names[1]])
        for record in records
        if names[0] in record.metrics
    }


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if any(argument.startswith("--compile") for argument in sys.argv):
        os.environ["JAX_PLATFORMS"] = "cpu"
    app.run(main)
