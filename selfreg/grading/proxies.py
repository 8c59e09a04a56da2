"""What stands for an object of the other side: in the judge for one of the program's, and back.

The judge's proxies decide nothing by the program's word where a test's own data is at stake. To
`==`, to `in`, to an order or to arithmetic with plain data they are what an object without any such
method is: a program cannot say that its answer equals the expected one, and is not told what is
expected. Between two objects of the program its methods count (it could as well have made both of
them the same number), and so do those that take no operand (`len`, `abs`, iteration), which return
plain data that the judge then compares.
"""

import types
from collections.abc import Callable
from typing import Any

from selfreg.grading.remote import BINARY, ORDER, UNARY, Proxy

TESTS_MODULE = "tests"

_CONVERSIONS = {"bool": bool, "int": int, "float": float, "complex": complex, "len": int}
_TEXTS = ("str", "repr", "format")
_ITEMS = ("getattr", "setattr", "delattr", "getitem", "setitem", "delitem")


def _forward(operation: str) -> Callable[..., Any]:
    def method(self: Proxy, *operands: Any) -> Any:
        return self._peer.request(operation, self, *operands)

    return method


def _forward_checked(operation: str, kind: type) -> Callable[..., Any]:
    def method(self: Proxy, *operands: Any) -> Any:
        result = self._peer.request(operation, self, *operands)
        if type(result) is not kind:
            raise TypeError(f"{operation} gave {type(result).__name__}, not {kind.__name__}")
        return result

    return method


def _forward_between(operation: str) -> Callable[..., Any]:
    def method(self: Proxy, other: Any) -> Any:
        if type(other) is not type(self):
            return NotImplemented
        return self._peer.request(operation, self, other)

    return method


def _call(self: Proxy, *operands: Any, **keywords: Any) -> Any:
    return self._peer.request("call", self, *operands, keywords=keywords)


def _iterate(self: Proxy) -> Any:
    iterator = self._peer.request("iter", self)
    return iterator if type(iterator) is type(self) else iter(iterator)


_SHARED = {
    "__slots__": (),
    "__call__": _call,
    "__iter__": _iterate,
    **{f"__{name}__": _forward(name) for name in ("next", "reversed", "enter", "exit", "round")},
    **{f"__{name}__": _forward(name) for name in (*_ITEMS, *UNARY)},
    **{f"__{name}__": _forward_checked(name, kind) for name, kind in _CONVERSIONS.items()},
    **{f"__{name}__": _forward_checked(name, str) for name in _TEXTS},
}


class Answer(Proxy):
    """The judge's proxy of an object of the program."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return type(other) is Answer and self._peer.request("eq", self, other) is True

    def __hash__(self) -> int:
        number = self._peer.request("hash", self)
        return number if type(number) is int else 0

    def __contains__(self, value: object) -> bool:
        return any(item is value or item == value for item in self)  # type: ignore[attr-defined]

    def __instancecheck__(self, value: object) -> bool:
        return type(value) is Answer and self._peer.request("isinstance", self, value) is True

    def __subclasscheck__(self, value: object) -> bool:
        return type(value) is Answer and self._peer.request("issubclass", self, value) is True


class Given(Proxy):
    """The program's proxy of an object of the tests, a callback for example."""

    __slots__ = ()


def _complete(proxy: type[Proxy], methods: dict[str, Any]) -> None:
    for name, method in methods.items():
        if name not in vars(proxy):
            setattr(proxy, name, method)


_complete(Answer, _SHARED)
_complete(Answer, {f"__{name}__": _forward_between(name) for name in (*BINARY, *ORDER)})
_complete(Given, _SHARED)
_complete(
    Given,
    {f"__{name}__": _forward(name) for name in (*BINARY, *ORDER, "eq", "ne", "contains", "hash")},
)


def permits(subject: object, operation: str, operands: tuple[Any, ...]) -> bool:
    """Whether a program may do an operation to an object of the tests that it was given.

    Functions can be called and iterators advanced. Of instances of the tests' own classes a program
    sees attributes and methods; of anything else no attribute, for by way of frames and globals
    they lead to what is expected.
    """
    if operation in ("call", "iter", "next", "eq", "ne", "hash", "bool"):
        return True
    if type(subject).__module__ != TESTS_MODULE:
        return False
    if not operation.endswith("attr"):
        return True
    name = operands[0]
    if type(name) is not str or name.startswith("_"):
        return False
    if operation != "getattr" or name in getattr(subject, "__dict__", ()):
        return True
    method = getattr(type(subject), name, None)
    return isinstance(method, (types.FunctionType, property)) or not callable(method)
