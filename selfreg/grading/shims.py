"""Gives scripts what they expect of a system and the jail lacks, within the child.

Nothing here keeps a program from anything: it may undo all of it.
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
    """Have streams open by their paths, threads start with any stack, and a judge be known."""
    # By it competition programs know to read standard input, and no file.
    os.environ["ONLINE_JUDGE"] = "1"
    builtins.open = io.open = _by_stream(io.open)
    _thread.stack_size = _at_most(_thread.stack_size)


def _by_stream(opener: Callable[..., Any]) -> Any:
    """An `open` that takes the paths of standard streams: where programs run there is no /proc."""

    def open_path(file: Any, *arguments: Any, **options: Any) -> Any:
        if not isinstance(file, int) and os.fspath(file) in _STREAMS:
            file = os.dup(_STREAMS[os.fspath(file)])
        opened = opener(file, *arguments, **options)
        _opened.append(_weakref.ref(opened))
        return opened

    return open_path


def flush_files() -> None:
    """Flush the files that are open, as the interpreter does at its end."""
    for reference in _opened:
        file = reference()
        if file is not None and not file.closed:
            with contextlib.suppress(Exception):
                file.flush()


def _at_most(stack_size: Callable[..., int]) -> Any:
    """A `threading.stack_size` that keeps within a quarter of the memory.

    The system gives a thread its stack as it is used. A limit on memory counts all of it at once,
    and would not let the thread start. Calls of Python functions do not need it.
    """

    def limited(*size: int) -> int:
        most, _ = resource.getrlimit(resource.RLIMIT_AS)
        return stack_size(*(min(n, most // 4) if most > 0 else n for n in size))

    return limited
