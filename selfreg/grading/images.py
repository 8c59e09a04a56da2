"""Make images of the other side's classes, for objects that are plain data and more.

Some objects have a class that extends a plain type (an LRU cache that is an OrderedDict, a
namedtuple, a member of an IntEnum). Such an object arrives as an object of an image of its class.
Its contents are local plain data, and its owner answers for everything that its class adds or
overrides. An exception arrives as one that `except` can catch: of the same class if both sides have
it, else of an image.
"""

import builtins
import contextlib
import operator
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from selfreg.grading.values import PLAIN, plain_base

if TYPE_CHECKING:
    from selfreg.grading.remote import Peer

_EXCEPTIONS: dict[str, type[BaseException]] = {
    name: kind
    for name, kind in vars(builtins).items()
    if isinstance(kind, type) and issubclass(kind, BaseException)
}
_RUNNERS = ("unittest", "doctest", "bdb", "pdb", "trace")
_mro = type.__dict__["__mro__"].__get__
_namespace = type.__dict__["__dict__"].__get__
_MAKER = "made.by"  # attribute of an image class; not an identifier, so that no program uses it


class ImageMaker:
    """Makes images of one conversation's classes, and records the object behind each image.

    Attributes:
      peer: This side of the conversation.
      found: The local stand-in for each object of the other side, by number.
    """

    def __init__(
        self,
        peer: "Peer",
        methods: Callable[[type, list[str]], dict[str, Any]],
    ) -> None:
        """Begin a conversation.

        Args:
          peer: This side of the conversation.
          methods: Returns the methods of an image, given the type that it extends and the names
            that its class defines beyond that type.
        """
        self.peer = peer
        self.found: dict[int, Any] = {}
        self._methods = methods
        self._classes: dict[int, type] = {}
        self._class_numbers: dict[type, int] = {}
        self._addresses: dict[int, int] = {}
        self._told: set[int] = set()

    def address(self, value: Any) -> int | None:
        """Return the owner's number of the object behind an image; None for any other value."""
        return self._addresses.get(id(value))

    # --- Values: what `values.Images` asks for ----------------------------------------------------

    def head(self, value: Any) -> list[Any]:
        """Return what precedes an object's contents; for an image, the reference to its object."""
        home = self.address(value)
        if home is not None:
            return ["h", home]
        kind = type(value)
        number = self.peer.number(kind)
        about = None
        if number not in self._told:
            self._told.add(number)
            base = plain_base(kind)
            assert base
            extra = _mro(kind)[: _mro(kind).index(base)]
            about = [
                kind.__name__,
                base.__name__,
                sorted({n for k in extra for n in _namespace(k)}),
            ]
        return ["V", self.peer.number(value), number, about]

    def find(self, number: Any, class_number: Any, about: Any) -> tuple[Any, type]:
        """Return the existing stand-in for an object, or None, and the class to make one of."""
        class_number = operator.index(class_number)
        if about is not None:
            name, base_name, names = about
            base = next((base for base in PLAIN if base.__name__ == base_name), None)
            if base is None:
                raise ValueError(f"{base_name!r:.20} is no plain type")
            self._classes[class_number] = self._make(class_number, str(name), base, names)
        return self.found.get(operator.index(number)), self._classes[class_number]

    def keep(self, number: int, made: Any) -> None:
        """Record the stand-in for an object."""
        self.found[number] = made
        self._addresses[id(made)] = number

    def _make(self, number: int, name: str, base: type, names: list[str]) -> type:
        methods = self._methods(base, list(map(str, names)))
        if not issubclass(base, BaseException):
            methods["__slots__"] = ()
        made = type(name, (base,), methods | {_MAKER: self})
        self._class_numbers[made] = number
        return made

    # --- Exceptions -------------------------------------------------------------------------------

    def encode_exception_class(self, kind: type[BaseException]) -> list[Any]:
        """Encode an exception class, with its bases up to the first that both sides have."""
        name = kind.__name__
        if _EXCEPTIONS.get(name) is kind:
            return ["E", name]
        if kind in self._class_numbers:
            return ["h", self._class_numbers[kind]]
        base = next(base for base in _mro(kind)[1:] if BaseException in _mro(base))
        parent = self.encode_exception_class(base)
        if kind.__module__.partition(".")[0] in sys.stdlib_module_names:
            return ["L", kind.__module__, name, parent]
        return ["E", name, self.peer.number(kind), sorted(_namespace(kind)), parent]

    def decode_exception_class(self, tag: str, *parts: Any) -> type[BaseException]:
        """Return the class that the other side encoded, or an image of it."""
        if tag == "h":
            kind = self.peer.own(*parts)
            if BaseException not in _mro(kind):
                raise ValueError("no class of exceptions")
            return kind
        if tag == "L":
            module, name, parent = parts
            kind = vars(sys.modules.get(module, builtins)).get(name)
            if _is_open(module) and isinstance(kind, type) and Exception in _mro(kind):
                return kind
            return self.decode_exception_class(*parent)
        if tag != "E":
            raise ValueError(f"no class of exceptions begins with {tag!r:.20}")
        if len(parts) == 1:
            return _EXCEPTIONS[parts[0]]
        name, number, names, parent = parts
        number = operator.index(number)
        if number not in self._classes:
            base = self.decode_exception_class(*parent)
            self._classes[number] = self._make(number, str(name), base, names)
        return self._classes[number]

    def make_exception(
        self,
        kind: type[BaseException],
        number: int | None,
        arguments: list[Any],
        own: dict[str, Any],
    ) -> BaseException:
        """Make an exception as the other side raised it.

        Args:
          kind: Its class.
          number: The owner's number for the exception, if its class is an image; else None.
          arguments: Its `args`.
          own: Its attributes, if both sides have its class.
        """
        error = kind.__new__(kind, *arguments)
        builtin: Any = next(base for base in _mro(kind) if base.__name__ in _EXCEPTIONS)
        with contextlib.suppress(TypeError):
            builtin.__init__(error, *arguments)  # sets `code`, `value` and the like
        BaseException.args.__set__(error, tuple(arguments))  # type: ignore[attr-defined]
        for name, value in own.items():
            BaseException.__setattr__(error, str(name), value)
        if number is not None:
            self.keep(operator.index(number), error)
        return error


def _is_open(module: str) -> bool:
    """Whether a program may raise a library's exceptions in tests that have imported the library.

    The grader's own exceptions are excluded, and those by which a test runner skips a test.
    """
    top = module.partition(".")[0]
    return top in sys.stdlib_module_names and top not in _RUNNERS


def maker_of(value: Any) -> ImageMaker | None:
    """Return the maker of an image; None for any other value."""
    return _namespace(type(value)).get(_MAKER)
