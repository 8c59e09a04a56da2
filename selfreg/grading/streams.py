"""Show the program the standard streams, `input` and `print` that its tests replaced.

Tests replace sys.stdout by a StringIO, or `input` by a function, in the judge. Before each request
the judge checks whether any of these was replaced, and tells the program's process, where functions
of the tests then stand in. The program's output reaches the tests before its next answer.
"""

import builtins
import io
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from selfreg.grading.remote import Peer

_OUTPUTS, _FUNCTIONS = ("stdout", "stderr"), ("input", "print")
_PLACES: dict[str, Any] = dict.fromkeys(("stdin", *_OUTPUTS), sys) | dict.fromkeys(
    _FUNCTIONS, builtins
)


def standing() -> dict[str, Any]:
    """Return the current object in each place."""
    return {name: getattr(place, name) for name, place in _PLACES.items()}


def restore(held: dict[str, Any]) -> None:
    """Put back the objects that `standing` returned."""
    for name, value in held.items():
        setattr(_PLACES[name], name, value)


class Substitution:
    """The judge's side: tells the program's process which objects the tests replaced."""

    def __init__(self, peer: "Peer", names: dict[str, Any]) -> None:
        """Begin when nothing is replaced; `names` are the variables of the tests."""
        self._peer, self._names = peer, names
        self._first = self._told = standing()
        self._is_telling = False

    def tell(self) -> None:
        """Tell the program's process what changed since the last time."""
        now = self._now()
        if self._is_telling or all(now[name] is self._told[name] for name in now):
            return
        changed = [name for name in now if now[name] is not self._told[name]]
        self._told, self._is_telling = now, True
        try:
            for name in changed:
                given = () if now[name] is self._first[name] else _functions(name, now[name])
                # Every request names an object; this operation ignores it.
                self._peer.request("substitute", 0, name, *given)
        finally:
            self._is_telling = False

    def _now(self) -> dict[str, Any]:
        now = standing()
        for name in _FUNCTIONS:
            # Only a function counts as a replacement: many tests have a variable `input`.
            own = self._names.get(name)
            if callable(own) and not isinstance(own, type) and self._peer.address(own) is None:
                now[name] = own
        return now


def _functions(name: str, value: Any) -> tuple[Callable[..., Any], ...]:
    """Return the functions that replace a stream or a function in the program's process."""
    if name in _FUNCTIONS:
        return (lambda *operands, **keywords: value(*operands, **keywords),)
    if name == "stdin":
        return (lambda size=-1: value.read(size), lambda size=-1: value.readline(size))
    return (lambda text: value.write(text),)


class _Writer(io.TextIOBase):
    """A stream that collects the program's output for the stream of the tests."""

    def __init__(self, write: Callable[[str], Any]) -> None:
        self._parts: list[str] = []
        self._give = write

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"string argument expected, got {type(text).__name__!r}")
        self._parts.append(str(text))
        return len(text)

    def flush(self) -> None:
        text, self._parts = "".join(self._parts), []
        if text:
            self._give(text)


class _Reader(io.TextIOBase):
    """A stream from which the program reads the stream of the tests."""

    def __init__(self, read: Callable[..., Any], readline: Callable[..., Any]) -> None:
        self.read, self.readline = read, readline  # type: ignore[method-assign]

    def readable(self) -> bool:
        return True

    def __next__(self) -> str:  # type: ignore[override]
        line: str = self.readline()
        if not line:
            raise StopIteration
        return line


# The interpreter's own objects, saved at the first replacement, and the writers to flush.
_first: dict[str, Any] = {}
_writers: dict[str, _Writer] = {}


def substitute(_: object, name: str, *given: Callable[..., Any]) -> None:
    """Put the tests' replacement in a place of the program's process; without one, restore it."""
    if not _first:
        _first.update(standing())
    value = _first[name]
    _writers.pop(name, None)
    if given and name in _OUTPUTS:
        value = _writers[name] = _Writer(*given)
    elif given:
        value = _Reader(*given) if name == "stdin" else given[0]
    setattr(_PLACES[name], name, value)


def flush() -> None:
    """Pass the program's output on to the tests."""
    for writer in list(_writers.values()):
        writer.flush()
