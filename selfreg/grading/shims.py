"""Give scripts, in the child, the system features that they expect and the jail lacks.

Nothing here is a restriction: a program may undo all of it.
"""

import _thread
import _weakref
import builtins
import contextlib
import io
import os
import resource
from collections.abc import Callable
from typing import Any

_STREAMS = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}
_STREAMS |= {f"{folder}/{n}": n for folder in ("/dev/fd", "/proc/self/fd") for n in range(3)}


_opened: list[Any] = []  # weak references to the files that the program opened


def put_in() -> None:
    """Let streams open by path and threads start with any stack size, and set ONLINE_JUDGE."""
    # Competition programs check this variable to read standard input instead of a file.
    os.environ["ONLINE_JUDGE"] = "1"
    builtins.open = io.open = _by_stream(io.open)
    _thread.stack_size = _at_most(_thread.stack_size)


def _by_stream(opener: Callable[..., Any]) -> Any:
    """Return an `open` that accepts the paths of standard streams: the jail has no /proc."""

    def open_path(file: Any, *arguments: Any, **options: Any) -> Any:
        if not isinstance(file, int) and os.fspath(file) in _STREAMS:
            file = os.dup(_STREAMS[os.fspath(file)])
        opened = opener(file, *arguments, **options)
        _opened.append(_weakref.ref(opened))
        return opened

    return open_path


def flush_files() -> None:
    """Flush the open files, as the interpreter does when it ends."""
    for reference in _opened:
        file = reference()
        if file is not None and not file.closed:
            with contextlib.suppress(Exception):
                file.flush()


def _at_most(stack_size: Callable[..., int]) -> Any:
    """Return a `threading.stack_size` that keeps within a quarter of the memory limit.

    The system allocates a thread's stack as it is used. A limit on memory counts all of it at once,
    and would keep the thread from starting. Calls of Python functions do not need it.
    """

    def limited(*size: int) -> int:
        most, _ = resource.getrlimit(resource.RLIMIT_AS)
        return stack_size(*(min(n, most // 4) if most > 0 else n for n in size))

    return limited
