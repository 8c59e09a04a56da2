"""Shared parts of the benchmarks: the same policy in transformers, and alternating timings."""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from selfreg.policy.models.hf import save_folder
from selfreg.policy.models.policy import Policy


def in_transformers(policy: Policy, params: Any) -> torch.nn.Module:
    """Return a float32 transformers model with the same weights, on all cores that JAX uses."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    with tempfile.TemporaryDirectory() as folder:
        save_folder(Path(folder), policy.config, params, policy.tokenizer)
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def alternate(
    ours: Callable[[], Any], theirs: Callable[[], Any], rounds: int
) -> tuple[float, float]:
    """Return the median seconds of each action.

    The actions alternate, so that load on the machine affects both. The first run of each is a
    warm-up and does not count.
    """
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds + 1):
        for action, kept in zip((ours, theirs), times, strict=True):
            begun = time.perf_counter()
            action()
            if turn:
                kept.append(time.perf_counter() - begun)
    return statistics.median(times[0]), statistics.median(times[1])
