"""Plain data as tagged JSON, and back: what judge and program tell each other. Never pickle.

None, bool, float, str and small int stand for themselves; the rest is a list that begins with its
tag. Subclasses of plain types become their base: whatever a program made of `==`, `len` or `abs`
stays with it. What is no plain data goes by reference, which `opaque` and `resolve` make and take.

Mutable containers are numbered as they come, so that a list that is passed twice arrives as one,
cycles arrive, and a reply can say what became of each argument.
"""

import collections
import importlib
import json
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

_dumps = json.JSONEncoder(check_circular=False, separators=(",", ":")).encode
_SMALL = 1 << 63

# Types that stand for themselves in whatever process.
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


class Encoder:
    """Encodes the values of one message.

    Attributes:
      known: The message's mutable containers, by number.
    """

    def __init__(self, opaque: _Opaque, known: Sequence[Any] = ()) -> None:
        self.known = list(known)
        self._numbers = {id(value): number for number, value in enumerate(known)}
        self._opaque = opaque

    def encode(self, value: Any) -> Any:
        """A value as JSON data; `opaque` encodes what is no plain data."""
        kind = type(value)
        if kind is str or kind is bool or value is None or kind is float:
            return value
        if kind is int:
            return value if -_SMALL < value < _SMALL else ["i", hex(value)]
        if kind in _CONTAINERS:
            number = self._numbers.get(id(value))
            if number is not None:
                return ["#", number]
            self._numbers[id(value)] = len(self.known)
            self.known.append(value)
            return [_CONTAINERS[kind][0], *self.contents(value)]
        if kind is tuple or kind is frozenset:
            return ["t" if kind is tuple else "f", *map(self.encode, value)]
        if kind in _SCALARS:
            return _SCALARS[kind](value)
        if kind in _VIEWS:
            return ["k" if kind is _VIEWS[0] else "p", *map(self.encode, value)]
        if kind is type and value in _TYPE_NAMES:
            return ["T", _TYPE_NAMES[value]]
        name = f"{kind.__module__}.{kind.__name__}"
        if name in _LIBRARY:
            return [name, *map(self.encode, value.__reduce__()[1])]
        for base, flatten in _BASES:
            if isinstance(value, base):
                return self.encode(flatten(value))
        return self._opaque(value)

    def contents(self, container: Any) -> list[Any]:
        """What is in a mutable container, encoded."""
        return [self.encode(item) for item in items(container)]


class Decoder:
    """Decodes the values of one message, in the order in which they were encoded.

    Attributes:
      known: The message's mutable containers, by number.
    """

    def __init__(self, resolve: _Resolve, known: Sequence[Any] = ()) -> None:
        self.known = list(known)
        self._resolve = resolve

    def decode(self, value: Any) -> Any:
        """The value of some JSON data; `resolve` decodes what `opaque` encoded.

        Raises:
          Exception: Any, for what no encoder wrote.
        """
        if type(value) is not list:
            if type(value) is dict:
                raise ValueError("an untagged value")
            return value
        tag = value[0]
        if tag == "t":
            return tuple(map(self.decode, value[1:]))
        if tag in _EMPTY:
            container = _EMPTY[tag]()
            self.known.append(container)
            self.fill(container, value[1:])
            return container
        if tag == "#":
            return self.known[operator.index(value[1])]
        if tag == "f":
            return frozenset(map(self.decode, value[1:]))
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
        return self._resolve(value)

    def fill(self, container: Any, contents: Iterable[Any]) -> None:
        """Make a mutable container hold what `Encoder.contents` encoded."""
        new = [self.decode(item) for item in contents]
        kind = type(container)
        if kind is list or kind is bytearray:
            container[:] = new
        elif kind is set:
            container.clear()
            container.update(new)
        elif kind is collections.deque:
            container.clear()
            container.extend(new)
        else:
            container.clear()
            for key, item in zip(new[::2], new[1::2], strict=True):
                container[key] = item


def items(container: Any) -> list[Any]:
    """A mutable container's items in a flat list, by which it can be compared with its past."""
    if isinstance(container, dict):
        return [part for pair in container.items() for part in pair]
    return list(container)


def same(before: list[Any], after: list[Any]) -> bool:
    """Whether two lists hold the very same objects."""
    return len(before) == len(after) and all(map(operator.is_, before, after))


def dump(message: Any) -> bytes:
    """JSON data as bytes."""
    return _dumps(message).encode()


# type: (tag, what makes an empty one). A default factory is code, and stays where it is.
_CONTAINERS: dict[type, tuple[str, Callable[[], Any]]] = {
    list: ("l", list),
    dict: ("d", dict),
    set: ("s", set),
    bytearray: ("B", bytearray),
    collections.deque: ("q", collections.deque),
    collections.Counter: ("C", collections.Counter),
    collections.OrderedDict: ("O", collections.OrderedDict),
    collections.defaultdict: ("D", collections.defaultdict),
}
_EMPTY = dict(_CONTAINERS.values())
_VIEWS: tuple[type, ...] = (type({}.keys()), type({}.items()))  # those that compare like sets
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
# By name, as few programs use them. They are made again from what pickle would note of them.
_LIBRARY = frozenset(
    ("decimal.Decimal", "fractions.Fraction", "datetime.date", "datetime.time", "datetime.datetime")
) | {"datetime.timedelta", "datetime.timezone"}
# The methods of the base, as a subclass may have replaced its own.
_BASES: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (int, lambda v: int.__add__(v, 0)),
    (float, float.__pos__),
    (str, str.__str__),
    (bytes, lambda v: bytes.__getitem__(v, slice(None))),
    (bytearray, lambda v: bytearray(bytearray.__getitem__(v, slice(None)))),
    (list, lambda v: list(list.__iter__(v))),
    (tuple, lambda v: tuple(tuple.__iter__(v))),
    (dict, lambda v: dict(dict.items(v))),
    (set, lambda v: set(set.__iter__(v))),
    (frozenset, lambda v: frozenset(frozenset.__iter__(v))),
    (complex, complex.__pos__),
)
