"""Which layers of the sandbox hold: each is probed by attempting, in a child, what it forbids."""

import dataclasses
import importlib
import os
import socket
from collections.abc import Callable

from selfreg.grading import child
from selfreg.grading.child import CHANNEL_FD, JailError
from selfreg.grading.sandbox import SCRATCH_MB, Jail, Limits

# Without one of these a program could reach the network.
NETWORK = frozenset({"seccomp", "netns"})

_LIMITS = Limits(cpu_s=2.0, wait_s=10.0, memory_mb=256, file_mb=SCRATCH_MB + 2)


def probe(jail: Jail) -> list[str]:
    """The names of the layers that hold, in a fixed order.

    rlimits: memory is bounded.  capabilities: root has no power.  landlock: files outside of the
    scratch folder cannot be read.  seccomp: there are no sockets.  netns: the network is empty,
    sockets or not.  quota: what the scratch folder takes is bounded.

    Raises:
      JailError: The jail keeps honest programs from their library, too.
    """
    if child.run(_import_something, jail, _LIMITS).report != b"imported":
        library = os.path.dirname(os.__file__)
        raise JailError(f"jailed programs cannot import from {library}: can this user read it?")
    # A child without the filter shows whether the network is empty behind it, too.
    unfiltered = dataclasses.replace(jail, filter=None)
    attempts: dict[str, tuple[Callable[[], object], Jail]] = {
        "rlimits": (lambda: bytearray(_LIMITS.memory_mb << 20), jail),
        "capabilities": (lambda: os.setgroups(os.getgroups()), jail),
        "landlock": (lambda: os.listdir("/"), jail),
        "seccomp": (lambda: socket.socket(socket.AF_UNIX), jail),
        "netns": (_connect, unfiltered),
        "quota": (_fill_scratch, jail),
    }
    return [name for name, (attempt, chosen) in attempts.items() if _is_denied(attempt, chosen)]


def _is_denied(attempt: Callable[[], object], jail: Jail) -> bool:
    def action() -> None:
        try:
            attempt()
        except (OSError, MemoryError):
            os.write(CHANNEL_FD, b"denied")

    return child.run(action, jail, _LIMITS).report == b"denied"


def _import_something() -> None:
    importlib.import_module("colorsys")  # whatever the worker has not imported yet
    os.write(CHANNEL_FD, b"imported")


def _connect() -> None:
    # A datagram socket: nothing is sent, the kernel only looks for a way.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe_socket:
        probe_socket.connect(("127.0.0.1", 9))


def _fill_scratch() -> None:
    with open("probe", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, (SCRATCH_MB + 1) << 20)
