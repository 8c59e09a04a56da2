"""What the benchmarks share: the same policy in transformers, and alternating timings."""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from transformers import AutoModelForCausalLM

from selfreg.models.hf import save_folder
from selfreg.models.policy import Policy

MATMUL_SIZE = 2048


def in_transformers(policy: Policy, params: Any) -> torch.nn.Module:
    """The same weights as a float32 transformers model, on all the cores that jax uses."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    with tempfile.TemporaryDirectory() as folder:
        save_folder(Path(folder), policy.config, params, policy.tokenizer)
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def alternate(
    ours: Callable[[], Any], theirs: Callable[[], Any], rounds: int
) -> tuple[float, float]:
    """Median seconds of each, run in turns so that a busy machine is unfair to neither.

    The first run of each warms up and is not counted.
    """
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds + 1):
        for action, kept in zip((ours, theirs), times, strict=True):
            begun = time.perf_counter()
            action()
            if turn:
                kept.append(time.perf_counter() - begun)
    return statistics.median(times[0]), statistics.median(times[1])


def matmul_ceiling(dtype: str = "float32", size: int = MATMUL_SIZE) -> float:
    """FLOP/s of a large square product in jax: what this machine's arithmetic can give."""
    generator = np.random.default_rng(0)
    a = jnp.asarray(generator.normal(size=(size, size)), dtype)
    product = jax.jit(lambda a, b: a @ b.T)
    product(a, a).block_until_ready()
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        product(a, a).block_until_ready()
        times.append(time.perf_counter() - begun)
    return 2 * size**3 / min(times)


def read_bandwidth(dtype: str = "float32", size: int = 2**26) -> float:
    """Bytes a second that a sum over a large array reads."""
    array = jnp.ones(size, dtype)
    total = jax.jit(lambda a: jnp.sum(a, dtype=jnp.float32))
    total(array).block_until_ready()
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        total(array).block_until_ready()
        times.append(time.perf_counter() - begun)
    return array.nbytes / min(times)
