"""Encode plain data as tagged JSON, and decode it, for the judge and the program. Never pickle.

None, bool, float, str and small int stand for themselves. Any other value is a list that begins
with its tag. If an object's class extends a plain type, its contents travel together with a
reference to the object (`images.py`). All other objects travel as a reference alone, which `opaque`
makes and `resolve` takes.

Mutable containers are numbered in the order in which they appear. A list that is passed twice
therefore arrives as one, cycles arrive, and a reply can report the changes to each argument.
"""

import collections
import importlib
import itertools
import json
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

# The C functions of the json library, without the objects that json makes for each call. In a child
# each such object is a page to copy.
_scan: Any = json.JSONDecoder().scan_once  # type: ignore[attr-defined]
_write = json.encoder.c_make_encoder(  # type: ignore[attr-defined]
    None, None, json.encoder.encode_basestring_ascii, None, ":", ",", False, False, True
)
_SMALL = 1 << 63

# Types that both processes have, and that travel by name.
TYPES: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        *(bool, bytearray, bytes, complex, dict, float, frozenset, int, list, object, range, set),
        *(slice, str, tuple, type(None), collections.Counter, collections.OrderedDict),
        *(collections.defaultdict, collections.deque),
    )
}
_TYPE_NAMES = {kind: name for name, kind in TYPES.items()}

_Opaque = Callable[[Any], list[Any]]
_Resolve = Callable[[list[Any]], Any]


class Images(Protocol):
    """Handles objects whose class extends a plain type."""

    def head(self, value: Any) -> list[Any]:
        """Return what precedes the contents: ["V", number, class, description of the class].

        Any other list stands for the whole value, without contents.
        """

    def find(self, number: Any, class_number: Any, about: Any) -> tuple[Any, type]:
        """Return the existing stand-in for an object, or None, and the class to make one of."""

    def keep(self, number: int, made: Any) -> None:
        """Record the stand-in for an object."""


class Encoder:
    """Encodes the values of one message.

    Attributes:
      known: The message's mutable containers, by number.
    """

    def __init__(
        self, opaque: _Opaque, known: Sequence[Any] = (), images: Images | None = None
    ) -> None:
        """Begin a message.

        Args:
          opaque: Encodes a value that is not plain data.
          known: The containers that both sides know already.
          images: Encodes the head of values whose class extends a plain type. Without it they
            become values of that type.
        """
        self.known = list(known)
        self._numbers = {id(value): number for number, value in enumerate(known)}
        self._opaque, self._images = opaque, images

    def encode(self, value: Any) -> Any:
        """Encode a value as JSON data; `opaque` encodes values that are not plain data."""
        kind = type(value)
        if kind is str or kind is bool or value is None or kind is float:
            return value
        if kind is int:
            return value if -_SMALL < value < _SMALL else ["i", hex(value)]
        if kind in _CONTAINERS:
            return self._encode_container(value, kind)
        if kind is tuple or kind is frozenset:
            return ["t" if kind is tuple else "f", *self._encode_all(value)]
        if kind in _SCALARS:
            return _SCALARS[kind](value)
        if kind in _VIEWS:
            return [_VIEWS[kind], *map(self.encode, value)]
        if kind is type and value in _TYPE_NAMES:
            return ["T", _TYPE_NAMES[value]]
        name = f"{kind.__module__}.{kind.__name__}"
        if name in _LIBRARY:
            return [name, *map(self.encode, _LIBRARY[name](value))]
        base = plain_base(kind)
        return self._opaque(value) if base is None else self._encode_extended(value, base)

    def _encode_container(self, value: Any, kind: type) -> list[Any]:
        number = self._numbers.get(id(value))
        if number is not None:
            return ["#", number]
        self._numbers[id(value)] = len(self.known)
        self.known.append(value)
        option = [self.encode(_OPTIONS[kind](value))] if kind in _OPTIONS else []
        return [_CONTAINERS[kind], *option, *self.contents(value)]

    def _encode_extended(self, value: Any, base: type) -> Any:
        if id(value) in self._numbers:
            return ["#", self._numbers[id(value)]]
        if self._images is None:
            return self.encode(_FLATTEN[base](value))
        head = self._images.head(value)
        if head[0] != "V":
            return head
        if base in _CONTAINERS:
            return [*head, self._encode_container(value, base)]
        return [*head, self.encode(_FLATTEN[base](value))]

    def _encode_all(self, values: Any) -> Iterable[Any]:
        return values if _stand_for_themselves(values) else map(self.encode, values)

    def contents(self, container: Any) -> list[Any]:
        """Return the encoded contents of a mutable container."""
        return list(self._encode_all(items(container)))


class Decoder:
    """Decodes the values of one message, in the order in which they were encoded.

    Attributes:
      known: The message's mutable containers, by number.
    """

    def __init__(
        self, resolve: _Resolve, known: Sequence[Any] = (), images: Images | None = None
    ) -> None:
        """Begin a message.

        Args:
          resolve: Decodes the lists that `Encoder.opaque` made.
          known: The containers that both sides know already.
          images: The counterpart of the encoder's.
        """
        self.known = list(known)
        self._resolve, self._images = resolve, images

    def decode(self, value: Any) -> Any:
        """Decode JSON data; `resolve` decodes the lists that `opaque` made.

        Raises:
          Exception: Any exception, for data that no encoder wrote.
        """
        if type(value) is not list:
            if type(value) is dict:
                raise ValueError("an untagged value")
            return value
        tag = value[0]
        if tag == "t":
            return tuple(self._decode_all(value[1:]))
        if tag in _KINDS:
            kind = _KINDS[tag]
            return self._decode_container(kind.__new__(kind), kind, value)
        if tag == "#":
            return self.known[operator.index(value[1])]
        if tag == "f":
            return frozenset(self._decode_all(value[1:]))
        if tag == "T":
            return TYPES[value[1]]
        if tag == "k" or tag == "p":
            parts = map(self.decode, value[1:])
            return dict.fromkeys(parts).keys() if tag == "k" else dict(parts).items()
        if tag in _REBUILD:
            return _REBUILD[tag](*value[1:])
        if tag in _LIBRARY:
            module, _, name = tag.rpartition(".")
            return getattr(importlib.import_module(module), name)(*map(self.decode, value[1:]))
        if tag == "V" and self._images:
            return self._decode_extended(*value)
        return self._resolve(value)

    def _decode_container(self, container: Any, kind: type, value: list[Any]) -> Any:
        self.known.append(container)
        contents = value[1:]
        if kind is collections.deque:
            collections.deque.__init__(container, (), self.decode(contents.pop(0)))
        elif kind is collections.defaultdict:
            container.default_factory = factory = self.decode(contents.pop(0))
            if factory is not None and not callable(factory):
                raise ValueError("a default factory that cannot be called")
        self.fill(container, contents)
        return container

    def _decode_extended(self, _: str, number: int, kind: Any, about: Any, contents: Any) -> Any:
        assert self._images
        made, image = self._images.find(number, kind, about)
        base = plain_base(image)
        if base in _CONTAINERS:
            if _KINDS[contents[0]] is not base:
                raise ValueError("an extension of another type")
            if made is None:
                made = base.__new__(image)
                self._images.keep(number, made)
            return self._decode_container(made, base, contents)
        plain = self.decode(contents)
        if made is None:
            if base is None or type(plain) is not base:
                raise ValueError("an extension of another type")
            made = base.__new__(image, plain)
            self._images.keep(number, made)
        return made

    def _decode_all(self, values: list[Any]) -> Iterable[Any]:
        return values if _stand_for_themselves(values) else map(self.decode, values)

    def fill(self, container: Any, contents: list[Any]) -> None:
        """Replace the contents of a mutable container by the result of `Encoder.contents`."""
        new = list(self._decode_all(contents))
        kind: Any = _own_base(container)
        if kind is list or kind is bytearray:
            kind.__setitem__(container, slice(None), new)
            return
        kind.clear(container)
        if kind is set:
            set.update(container, new)
        elif kind is collections.deque:
            kind.extend(container, new)
        else:
            for key, item in zip(new[::2], new[1::2], strict=True):
                kind.__setitem__(container, key, item)


def plain_base(kind: type) -> type | None:
    """Return the plain type that a class is or extends; None if there is none."""
    return next((base for base in _mro(kind) if base in _FLATTEN), None)


def flatten(value: Any) -> Any:
    """Return the plain contents of an object whose class extends a plain type; else the object."""
    base = plain_base(type(value))
    return value if base in (None, type(value)) else _FLATTEN[base](value)


def is_extended(container: Any) -> bool:
    """Whether a mutable container is more than plain data."""
    return type(container) not in _CONTAINERS


def _own_base(container: Any) -> type:
    kind = type(container)
    return kind if kind in _CONTAINERS else plain_base(kind) or kind


def items(container: Any) -> list[Any]:
    """Return a mutable container's items as a flat list, for comparison with a later state."""
    kind: Any = _own_base(container)  # a subclass may have replaced its methods
    if issubclass(kind, dict):
        return list(itertools.chain.from_iterable(kind.items(container)))
    return list(kind.__iter__(container))


def same(before: list[Any], after: list[Any]) -> bool:
    """Whether two lists hold the very same objects."""
    return len(before) == len(after) and all(map(operator.is_, before, after))


def dump(message: Any) -> bytes:
    """Return JSON data as bytes."""
    return "".join(_write(message, 0)).encode()


def load(body: bytes) -> Any:
    """Return the JSON data that `dump` wrote.

    Raises:
      ValueError: The bytes are not JSON.
    """
    text = body.decode()
    try:
        message, end = _scan(text, 0)
    except StopIteration:
        end = -1
    if end != len(text):
        raise ValueError("no JSON")
    return message


def _stand_for_themselves(values: Any) -> bool:
    """Whether JSON can hold all values unchanged, which makes long lists of numbers fast."""
    if len(values) < _LONG:
        return False
    kinds = set(map(type, values))
    if not kinds <= _AS_THEY_ARE:
        return False
    numbers = values if kinds == {int} else [v for v in values if type(v) is int]
    return int not in kinds or -_SMALL < min(numbers) <= max(numbers) < _SMALL


_AS_THEY_ARE = {str, bool, float, int, type(None)}
_LONG = 16  # for shorter lists the check costs more than it saves
_mro = type.__dict__["__mro__"].__get__

_CONTAINERS: dict[type, str] = {
    list: "l",
    dict: "d",
    set: "s",
    bytearray: "B",
    collections.deque: "q",
    collections.Counter: "C",
    collections.OrderedDict: "O",
    collections.defaultdict: "D",
}
_KINDS: dict[str, Any] = {tag: kind for kind, tag in _CONTAINERS.items()}
# A container's attribute beside its items.
_OPTIONS: dict[type, Callable[[Any], Any]] = {
    collections.deque: vars(collections.deque)["maxlen"].__get__,
    collections.defaultdict: vars(collections.defaultdict)["default_factory"].__get__,
}
# Views that compare like sets, and their tags.
_ORDERED: Any = collections.OrderedDict()
_VIEWS: dict[type, str] = {
    **dict.fromkeys((type({}.keys()), type(_ORDERED.keys())), "k"),
    **dict.fromkeys((type({}.items()), type(_ORDERED.items())), "p"),
}
_SCALARS: dict[type, Callable[[Any], list[Any]]] = {
    bytes: lambda v: ["b", v.hex()],
    complex: lambda v: ["c", v.real, v.imag],
    range: lambda v: ["r", *(hex(part) for part in (v.start, v.stop, v.step))],
}
_REBUILD: dict[str, Callable[..., Any]] = {
    "i": lambda digits: int(digits, 16),
    "b": bytes.fromhex,
    "c": complex,
    "r": lambda *parts: range(*(int(part, 16) for part in parts)),
}
_PATHS = ("PosixPath", "PurePosixPath")
# Library types by name, because few programs use them, and the arguments that remake each value.
_LIBRARY: dict[str, Callable[[Any], Iterable[Any]]] = {
    **dict.fromkeys(
        (
            *("decimal.Decimal", "fractions.Fraction", "datetime.date", "datetime.time"),
            *("datetime.datetime", "datetime.timedelta", "datetime.timezone"),
        ),
        lambda v: v.__reduce__()[1],
    ),
    "uuid.UUID": lambda v: (v.hex,),
    **dict.fromkeys(
        (
            *("ipaddress.IPv4Address", "ipaddress.IPv6Address"),
            # Python 3.13 has them in a module of its own.
            *(f"{m}.{n}" for m in ("pathlib", "pathlib._local") for n in _PATHS),
        ),
        lambda v: (str(v),),
    ),
    "array.array": lambda v: (v.typecode, v.tolist()),
}
# Plain types that a class can extend, and functions that return an object's plain value. They use
# the base's methods, because the class may have replaced its own.
_FLATTEN: dict[type, Callable[[Any], Any]] = {
    int: lambda v: int.__add__(v, 0),
    float: float.__pos__,
    str: str.__str__,
    bytes: lambda v: bytes.__getitem__(v, slice(None)),
    tuple: lambda v: tuple(tuple.__iter__(v)),
    frozenset: lambda v: frozenset(frozenset.__iter__(v)),
    complex: complex.__pos__,
    bytearray: lambda v: bytearray(bytearray.__getitem__(v, slice(None))),
    list: lambda v: list(list.__iter__(v)),
    set: lambda v: set(set.__iter__(v)),
    dict: lambda v: dict(dict.items(v)),
    collections.OrderedDict: lambda v: collections.OrderedDict(collections.OrderedDict.items(v)),
    collections.Counter: lambda v: collections.Counter(dict(dict.items(v))),
    collections.defaultdict: lambda v: collections.defaultdict(
        _OPTIONS[collections.defaultdict](v), dict.items(v)
    ),
    collections.deque: lambda v: collections.deque(
        collections.deque.__iter__(v), _OPTIONS[collections.deque](v)
    ),
}
PLAIN = tuple(_FLATTEN)
