"""Runs of several processes: how they find each other, and what one of them tells all.

Every process runs the same program on the same inputs and calls the same functions in the same
order; jax spreads arrays over the devices of all. What is not the same everywhere (a grade that
hangs on a time limit), or must happen once (a file that is written), the first process does alone.
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
# When the first process ends jax ends the others, who may still have to say why they stop.
_LAST_WORDS_S = 3.0
# Messages are padded to powers of two from here on: few lengths, few programs.
_SMALLEST_MESSAGE = 1 << 16


def start(coordinator: str, count: int | None, index: int | None) -> None:
    """Join the other processes of the run; call it before anything else asks jax for devices.

    Args:
      coordinator: HOST:PORT, where the first process listens, or "auto": what SLURM, Open MPI,
        Kubernetes or a TPU pod says, of the other two as well.
      count: Processes of the run.
      index: This process, from 0.

    Raises:
      ValueError: Something is missing, or no cluster was found.
    """
    if coordinator != AUTO and (":" not in coordinator or count is None or index is None):
        raise ValueError(
            f"--coordinator={coordinator} needs HOST:PORT, --process_count and --process_index "
            f"(now {count} and {index}); or say --coordinator=auto under SLURM, Open MPI, "
            "Kubernetes or on a TPU pod"
        )
    try:
        jax.distributed.initialize(
            None if coordinator == AUTO else coordinator, count, index,
            cluster_detection_method=None if coordinator == AUTO else "deactivate",
        )  # fmt: skip
    except ValueError as error:
        raise ValueError(
            f"--coordinator={coordinator}: {error} Name --coordinator=HOST:PORT, --process_count "
            "and --process_index, with an index from 0 and below the count"
        ) from error


def is_first() -> bool:
    """Whether this is the process that grades and writes."""
    return jax.process_index() == 0


def from_first(make: Callable[[], T]) -> T:
    """What `make` returns in the first process, in all of them; it is not called in the others.

    An exception is shared too: all processes raise it, and the run ends everywhere.
    """
    if jax.process_count() == 1:
        return make()
    value, error = None, None
    if is_first():
        try:
            value = make()
        except Exception as raised:  # it is raised again, below
            error = raised
    value, shared = pickle.loads(_broadcast(pickle.dumps((value, error))))
    if error or shared:
        raise error or shared
    return value


def any_process(flag: bool) -> bool:
    """Whether the flag is set in some process; all must ask."""
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.array([flag]))))


def leave(code: int) -> NoReturn:
    """End this process after an error; one of several does not wait for the others to end too."""
    if not jax.distributed.is_initialized():
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    if is_first():
        time.sleep(_LAST_WORDS_S)
    os._exit(code)


def _broadcast(message: bytes) -> bytes:
    """The first process's message, in every process."""
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(message))))
    padded = np.zeros(max(_SMALLEST_MESSAGE, 1 << (length - 1).bit_length()), np.uint8)
    if is_first():
        padded[:length] = np.frombuffer(message, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(padded))[:length].tobytes()
