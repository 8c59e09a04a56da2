"""Runs of several processes: join them, and share results of the first process with all.

Every process runs the same program on the same inputs and calls the same functions in the same
order. JAX spreads arrays over the devices of all processes. The first process alone does work whose
result may differ between processes (a grade that depends on a time limit), and work that must
happen once (writing a file).
"""

import os
import pickle
import sys
import time
from collections.abc import Callable
from typing import NoReturn, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

T = TypeVar("T")

AUTO = "auto"
# JAX ends the other processes when the first one ends. The delay lets them print why they stop.
_LAST_WORDS_S = 3.0
# Messages are padded to a power of two of at least this size. Each length compiles its own program,
# so few lengths mean few programs.
_SMALLEST_MESSAGE = 1 << 16


def start(coordinator: str, count: int | None, index: int | None) -> None:
    """Join the other processes of the run. Call this before anything asks JAX for devices.

    Args:
      coordinator: HOST:PORT where the first process listens. "auto": take all three values from
        SLURM, Open MPI, Kubernetes or the TPU pod.
      count: The number of processes in the run.
      index: This process's index, from 0.

    Raises:
      ValueError: A value is missing, or JAX found no cluster.
    """
    if coordinator != AUTO and (":" not in coordinator or count is None or index is None):
        raise ValueError(
            f"--coordinator={coordinator} needs HOST:PORT, --process_count and --process_index "
            f"(now {count} and {index}). Under SLURM, Open MPI, Kubernetes or on a TPU pod, use "
            "--coordinator=auto instead"
        )
    try:
        jax.distributed.initialize(
            None if coordinator == AUTO else coordinator, count, index,
            cluster_detection_method=None if coordinator == AUTO else "deactivate",
        )  # fmt: skip
    except ValueError as error:
        raise ValueError(
            f"--coordinator={coordinator}: {error} Pass --coordinator=HOST:PORT, --process_count "
            "and --process_index. The index starts at 0 and is below the count"
        ) from error


def is_first() -> bool:
    """Return whether this is the first process, which grades and writes files."""
    return jax.process_index() == 0


def from_first(make: Callable[[], T]) -> T:
    """Call `make` in the first process only, and return its result in every process.

    If `make` raises an exception, every process raises it, so the run ends everywhere.
    """
    if jax.process_count() == 1:
        return make()
    value, error = None, None
    if is_first():
        try:
            value = make()
        except Exception as raised:  # raised again below, in every process
            error = raised
    value, shared = pickle.loads(_broadcast(pickle.dumps((value, error))))
    if error or shared:
        raise error or shared
    return value


def any_process(flag: bool) -> bool:
    """Return whether the flag is set in any process. Every process must call this."""
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.array([flag]))))


def leave(code: int) -> NoReturn:
    """End this process after an error, without waiting for the run's other processes to end."""
    if not jax.distributed.is_initialized():
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    if is_first():
        time.sleep(_LAST_WORDS_S)
    os._exit(code)


def _broadcast(message: bytes) -> bytes:
    """Return the first process's message in every process."""
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(message))))
    padded = np.zeros(max(_SMALLEST_MESSAGE, 1 << (length - 1).bit_length()), np.uint8)
    if is_first():
        padded[:length] = np.frombuffer(message, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(padded))[:length].tobytes()
