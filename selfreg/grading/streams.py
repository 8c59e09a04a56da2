"""Standard streams, `input` and `print` as tests replace them, for the program to meet.

Tests put a StringIO in the place of sys.stdout, or a function in the place of input: in the judge.
Before each request the judge looks whether any was replaced, and tells the program's process, where
functions of the tests stand in. What the program writes comes before its next answer.
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
    """What stands in each place."""
    return {name: getattr(place, name) for name, place in _PLACES.items()}


def restore(held: dict[str, Any]) -> None:
    """Put back what `standing` gave."""
    for name, value in held.items():
        setattr(_PLACES[name], name, value)


class Substitution:
    """The judge's side: tells the program's process what the tests replaced."""

    def __init__(self, peer: "Peer", names: dict[str, Any]) -> None:
        """Begin when nothing is replaced; `names` are the variables of the tests."""
        self._peer, self._names = peer, names
        self._first = self._told = standing()
        self._is_telling = False

    def tell(self) -> None:
        """Tell what changed since the last time."""
        now = self._now()
        if self._is_telling or all(now[name] is self._told[name] for name in now):
            return
        changed = [name for name in now if now[name] is not self._told[name]]
        self._told, self._is_telling = now, True
        try:
            for name in changed:
                given = () if now[name] is self._first[name] else _functions(name, now[name])
                # An object's number stands in every request; here any will do.
                self._peer.request("substitute", 0, name, *given)
        finally:
            self._is_telling = False

    def _now(self) -> dict[str, Any]:
        now = standing()
        for name in _FUNCTIONS:
            # A function of that name; many tests have a variable `input`.
            own = self._names.get(name)
            if callable(own) and not isinstance(own, type) and self._peer.address(own) is None:
                now[name] = own
        return now


def _functions(name: str, value: Any) -> tuple[Callable[..., Any], ...]:
    """What does for the program what a stream, or a function, does for the tests."""
    if name in _FUNCTIONS:
        return (lambda *operands, **keywords: value(*operands, **keywords),)
    if name == "stdin":
        return (lambda size=-1: value.read(size), lambda size=-1: value.readline(size))
    return (lambda text: value.write(text),)


class _Writer(io.TextIOBase):
    """Collects what a program writes, for the stream of the tests."""

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
    """Reads, for a program, from the stream of the tests."""

    def __init__(self, read: Callable[..., Any], readline: Callable[..., Any]) -> None:
        self.read, self.readline = read, readline  # type: ignore[method-assign]

    def readable(self) -> bool:
        return True

    def __next__(self) -> str:  # type: ignore[override]
        line: str = self.readline()
        if not line:
            raise StopIteration
        return line


# What the interpreter has in each place, once something was put there, and writers to be flushed.
_first: dict[str, Any] = {}
_writers: dict[str, _Writer] = {}


def substitute(_: object, name: str, *given: Callable[..., Any]) -> None:
    """Put, in the program's process, what the tests gave in a place; nothing: what was first."""
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
    """Give the tests what the program wrote."""
    for writer in list(_writers.values()):
        writer.flush()
