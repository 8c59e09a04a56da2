"""Classes made in the image of the other side's, for objects that are plain data and more.

An object of a class that extends a plain type (an LRU cache that is an OrderedDict, a namedtuple,
a member of an IntEnum) arrives as an object of an image of that class: its contents are here, as
plain data, and what its class adds or overrides is asked of its owner. An exception arrives as one
that `except` can catch: of the same class where both sides have it, else of an image.
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
_MAKER = "made.by"  # of an image class; no identifier, so that no test and no program means it


class ImageMaker:
    """Makes images of one conversation's classes, and knows of which object each image is.

    Attributes:
      peer: This side of the conversation.
      found: What stands for each object of the other side, by number.
    """

    def __init__(
        self,
        peer: "Peer",
        methods: Callable[[type, list[str]], dict[str, Any]],
    ) -> None:
        """Begin a conversation.

        Args:
          peer: This side of it.
          methods: The methods of an image, by the type that it extends and the names that its
            class defines beyond that.
        """
        self.peer = peer
        self.found: dict[int, Any] = {}
        self._methods = methods
        self._classes: dict[int, type] = {}
        self._class_numbers: dict[type, int] = {}
        self._addresses: dict[int, int] = {}
        self._told: set[int] = set()

    def address(self, value: Any) -> int | None:
        """The number of an image's object at its owner."""
        return self._addresses.get(id(value))

    # --- Values: what `values.Images` asks for ----------------------------------------------------

    def head(self, value: Any) -> list[Any]:
        """What stands before the contents of an object of this side, or is all of an image."""
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
        """What stands for an object already, or None, and the class to make it of."""
        class_number = operator.index(class_number)
        if about is not None:
            name, base_name, names = about
            base = next((base for base in PLAIN if base.__name__ == base_name), None)
            if base is None:
                raise ValueError(f"{base_name!r:.20} is no plain type")
            self._classes[class_number] = self._make(class_number, str(name), base, names)
        return self.found.get(operator.index(number)), self._classes[class_number]

    def keep(self, number: int, made: Any) -> None:
        """Note what stands for an object from now on."""
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
        """A class of exceptions, with those that it extends up to one that both sides have."""
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
        """The class that the other side encoded, or an image of it."""
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
        """An exception as the other side raised it.

        Args:
          kind: Its class.
          number: That of the object at its owner, where its class is an image.
          arguments: Its `args`.
          own: Its attributes, where its class is one of both sides.
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
    """Whether a program may raise a library's exceptions in tests that have imported it.

    Not the grader's, and none by which a runner of tests skips one.
    """
    top = module.partition(".")[0]
    return top in sys.stdlib_module_names and top not in _RUNNERS


def maker_of(value: Any) -> ImageMaker | None:
    """Who made an image; None for whatever is no image."""
    return _namespace(type(value)).get(_MAKER)
