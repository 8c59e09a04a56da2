"""Measure the time to hand a policy's weights to SGLang, relative to copying the same bytes.

    python -m benchmarks.weight_sync                            # writing, on this machine
    python -m benchmarks.weight_sync --url=http://host:30000    # and loading, by a server

This also estimates the savings from sending only changed tensors. It compares bfloat16 weights
before and after a simulated Adam update at a small learning rate, which moves each weight by about
the rate.
"""

import asyncio
import statistics
import time
from pathlib import Path

import aiohttp
import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from benchmarks.batch import named_policy
from benchmarks.table import show
from selfreg.policy import xla
from selfreg.policy.rollout.sglang_client import Server
from selfreg.policy.rollout.weight_sync import WeightSync, send

_MODEL = flags.DEFINE_string(
    "model", "random:Qwen/Qwen2.5-0.5B-Instruct", "As in benchmarks.train_step."
)
_FOLDER = flags.DEFINE_string("folder", "/dev/shm", "The folder for the written weights.")
_URL = flags.DEFINE_string("url", "", "A server of this model. '': measure writing only.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Timed runs of each operation.", lower_bound=1)
_LR = flags.DEFINE_float("lr", 1e-6, "Learning rate of the simulated update.", lower_bound=0)


def main(_: list[str]) -> None:
    """Measure and print."""
    xla.set_up()
    policy, params = named_policy(_MODEL.value)
    sync = WeightSync(policy.config, dtype="bfloat16", parent=Path(_FOLDER.value))
    try:
        rows, size = _measure(sync, params)
    finally:
        sync.close()
    changed, tensors, touched = _changes(params)
    show(
        f"{_MODEL.value}: {size / 1e9:.2f} GB of bfloat16 weights, median of {_ROUNDS.value}",
        ["what", "seconds", "GB/s", "x the floor"],
        rows,
        f"One Adam step at lr {_LR.value:g} changes {changed:.1%} of the bfloat16 weights, in "
        f"{touched} of {tensors} tensors. Sending only changed tensors would save "
        f"{1 - touched / tensors:.0%}.",
    )


def _measure(sync: WeightSync, params: object) -> tuple[list[list[str]], int]:
    times: dict[str, list[float]] = {"copy (floor)": [], "write": [], "load and verify": []}
    size = 0
    for round_ in range(_ROUNDS.value + 1):  # the first only warms up
        started = time.perf_counter()
        files = sync.write(params, f"0.{round_}")
        wrote = time.perf_counter() - started
        size = files.bytes
        floor = _copy(size)
        loaded = asyncio.run(_load(files)) if _URL.value else 0.0
        if round_:
            for name, seconds in zip(times, (floor, wrote, loaded), strict=True):
                times[name].append(seconds)
    base = statistics.median(times["copy (floor)"])
    rows = []
    for name, each in times.items():
        seconds = statistics.median(each)
        if name.startswith("load") and not _URL.value:
            rows.append([name, "not run: no --url", "", ""])
        else:
            rows.append(
                [name, f"{seconds:.3f}", f"{size / seconds / 1e9:.2f}", f"{seconds / base:.2f}"]
            )
    return rows, size


def _copy(size: int) -> float:
    """Return the seconds to write this many bytes from a buffer to a file in the same folder."""
    data = np.zeros(min(size, 1 << 28), np.uint8)
    file = Path(_FOLDER.value) / f"selfreg-floor-{time.monotonic_ns()}"
    started = time.perf_counter()
    with file.open("wb", buffering=0) as out:
        left = size
        while left > 0:
            left -= out.write(data[:left].data)
    seconds = time.perf_counter() - started
    file.unlink()
    return seconds


async def _load(files: object) -> float:
    async with aiohttp.ClientSession() as session:
        started = time.perf_counter()
        await send(Server(_URL.value, session), files, 600.0)  # type: ignore[arg-type]
        return time.perf_counter() - started


def _changes(params: object) -> tuple[float, int, int]:
    """Return the fraction of weights that change, the number of tensors, and how many change."""
    weights = changed = tensors = touched = 0
    for number, leaf in enumerate(jax.tree.leaves(params)):
        signs = jax.random.rademacher(jax.random.key(number), leaf.shape, jnp.float32)
        moved = (leaf + _LR.value * signs).astype(jnp.bfloat16) != leaf.astype(jnp.bfloat16)
        layers = moved.reshape(len(moved), -1) if leaf.ndim == 3 else moved.reshape(1, -1)
        weights += leaf.size
        changed += int(moved.sum())
        tensors += len(layers)
        touched += int(jnp.any(layers, axis=1).sum())
    return changed / weights, tensors, touched


if __name__ == "__main__":
    app.run(main)
