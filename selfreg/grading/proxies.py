"""Proxies: the judge's stand-ins for objects of the program, and the program's for the tests'.

The judge's proxies never let the program decide about a test's own data. For `==`, `in`, ordering
and arithmetic with plain data, a proxy behaves like an object that defines no such method. A
program therefore cannot claim that its answer equals the expected one, and does not learn the
expected value. Between two objects of the program, the program's own methods decide: it could
equally well have made both of them the same number. Methods without an operand (`len`, `abs`,
iteration) are also the program's. They return plain data, which the judge then compares.
"""

import types
from collections.abc import Callable
from typing import Any

from selfreg.grading.operations import BINARY, IN_PLACE, ORDER, UNARY
from selfreg.grading.remote import Proxy, Side, locate
from selfreg.grading.values import flatten

TESTS_MODULE = "tests"

_CONVERSIONS = {"bool": bool, "int": int, "float": float, "complex": complex, "len": int}
_TEXTS = ("str", "repr", "format")
_ITEMS = ("setattr", "delattr", "getitem", "setitem", "delitem")
_SIMPLE = (
    *("next", "reversed", "enter", "exit", "round", "copy", "deepcopy", "dir", "aiter"),
    *_ITEMS,
    *UNARY,
)
_COMPARING = frozenset(
    f"__{name}__"
    for name in (*BINARY, *IN_PLACE, *(f"r{name}" for name in BINARY), *ORDER, "eq", "ne")
) | {"__contains__", "__instancecheck__", "__subclasscheck__"}
_AWAITED = ("anext", "aenter", "aexit")
# Every object has its own value of these, and must not take it from the proxy's class.
_OF_ALL = ("__doc__", "__module__", "__annotations__")


def _ask(operation: str, proxy: Any, /, *operands: Any, **keywords: Any) -> Any:
    peer, number = locate(proxy)
    return peer.request(operation, number, *operands, keywords=keywords)


def _forward(operation: str) -> Callable[..., Any]:
    def method(self: Any, /, *operands: Any) -> Any:
        return _ask(operation, self, *operands)

    return method


def _forward_checked(operation: str, kind: type) -> Callable[..., Any]:
    def method(self: Any, /, *operands: Any) -> Any:
        result = _ask(operation, self, *operands)
        if type(result) is not kind:
            raise TypeError(f"{operation} gave {type(result).__name__}, not {kind.__name__}")
        return result

    return method


def _forward_between(operation: str, otherwise: Any = None) -> Callable[..., Any]:
    """Return a method that asks the program about two of its objects, never about plain data."""

    def method(self: Any, other: Any, /) -> Any:
        peer, _ = locate(self)
        if peer.address(other) is not None:
            return _ask(operation, self, other)
        return NotImplemented if otherwise is None else otherwise(self, other)

    return method


def _get_attribute(self: Any, name: str, /) -> Any:
    if name in _COMPARING:  # a test could call it by name with plain data
        raise AttributeError(name)
    return _ask("getattr", self, name)


def _forward_awaited(operation: str) -> Callable[..., Any]:
    async def method(self: Any, /, *operands: Any) -> Any:
        return _ask(operation, self, *operands)

    return method


def _await(self: Any, /) -> Any:
    return _ask("await", self)
    yield  # makes this a generator, as __await__ requires


def _sign(self: Any, /) -> Any:
    import inspect  # the tests have imported it by now

    parameters, returns = _ask("signature", self)
    made = [
        inspect.Parameter(
            name,
            inspect._ParameterKind(kind),
            **({"default": default[0]} if default else {}),
            **({"annotation": annotation[0]} if annotation else {}),
        )
        for name, kind, default, annotation in parameters
    ]
    return inspect.Signature(made, return_annotation=(*returns, inspect.Signature.empty)[0])


def _attribute(name: str) -> property:
    return property(lambda self: _ask("getattr", self, name))


def _call(self: Any, /, *operands: Any, **keywords: Any) -> Any:
    return _ask("call", self, *operands, **keywords)


def _iterate(self: Any, /) -> Any:
    iterator = _ask("iter", self)
    return iterator if issubclass(type(iterator), Proxy) else iter(iterator)


def _deep_copy(self: Any, _: Any, /) -> Any:
    return _ask("deepcopy", self)


def _refuse_pickling(self: Any, _: Any, /) -> Any:
    raise TypeError("tests cannot pickle an object of the program")


_SHARED = {
    "__call__": _call,
    "__iter__": _iterate,
    **{f"__{name}__": _forward(name) for name in _SIMPLE},
    **{f"__{name}__": _forward_checked(name, kind) for name, kind in _CONVERSIONS.items()},
    **{f"__{name}__": _forward_checked(name, str) for name in _TEXTS},
    **{f"__{name}__": _forward_awaited(name) for name in _AWAITED},
    "__await__": _await,
    "__getattr__": _get_attribute,
    "__deepcopy__": _deep_copy,
    "__reduce_ex__": _refuse_pickling,
}


class Answer(Proxy):
    """The judge's proxy of an object of the program."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        peer, _ = locate(self)
        return peer.address(other) is not None and _ask("eq", self, other) is True

    def __hash__(self) -> int:
        number = _ask("hash", self)
        return number if type(number) is int else 0

    def __contains__(self, value: object) -> bool:
        return any(item is value or item == value for item in self)  # type: ignore[attr-defined]

    def __instancecheck__(self, value: object) -> bool:
        peer, _ = locate(self)
        return peer.address(value) is not None and _ask("isinstance", self, value) is True

    def __subclasscheck__(self, value: object) -> bool:
        peer, _ = locate(self)
        return peer.address(value) is not None and _ask("issubclass", self, value) is True


class Coroutine(Answer):
    """The judge's proxy of a coroutine, which runs in the program's process from start to end.

    `asyncio.run` accepts any object with these methods as a coroutine.
    """

    __slots__ = ()

    def send(self, _: object) -> None:
        """Run the coroutine to its end."""
        raise StopIteration(_ask("await", self))

    def __next__(self) -> None:  # a task prefers this to `send`
        self.send(None)

    def throw(self, *error: Any) -> None:
        """Throw an exception into the coroutine."""
        _ask("getattr", self, "throw")(*error)

    def close(self) -> None:
        """Close the coroutine."""
        _ask("getattr", self, "close")()


class Given(Proxy):
    """The program's proxy of an object of the tests, for example a callback."""

    __slots__ = ()


def _complete(proxy: type[Proxy], methods: dict[str, Any]) -> None:
    for name, method in methods.items():
        if name not in vars(proxy) or name in _OF_ALL:
            setattr(proxy, name, method)


_BETWEEN = (*BINARY, *IN_PLACE, *ORDER)
_TO_ALL = (*BINARY, *ORDER, "eq", "ne", "contains", "hash")
for _kind in (Answer, Given):
    _complete(_kind, _SHARED | {name: _attribute(name) for name in _OF_ALL})
Answer.__signature__ = property(_sign)  # type: ignore[attr-defined]
_complete(Answer, {f"__{name}__": _forward_between(name) for name in _BETWEEN})
_complete(Given, {f"__{name}__": _forward(name) for name in _TO_ALL})


# --- Methods of images: what a class adds to the plain type that it extends, or overrides ---------


def _set_attribute(self: Any, name: str, value: Any, /) -> None:
    if name.startswith("__"):  # set by the interpreter, such as __traceback__
        BaseException.__setattr__(self, name, value)
    else:
        _ask("setattr", self, name, value)


def _hash_of(base: Any) -> Callable[..., int]:
    """Return the base's hash, so that equal plain data hashes equally, or else the object's own."""
    return base.__hash__ or _forward_checked("hash", int)


def _image_methods(base: type, names: list[str], compare: dict[str, Any]) -> dict[str, Any]:
    methods: dict[str, Any] = {
        "__getattr__": _SHARED["__getattr__"],
        "__setattr__": _set_attribute,
        "__delattr__": _forward("delattr"),
        "__copy__": _forward("copy"),
        "__deepcopy__": _deep_copy,
        "__reduce_ex__": _refuse_pickling,
    }
    for name in names:
        if name in _OF_ALL:
            continue
        if not (name.startswith("__") and name.endswith("__")):
            methods[name] = _attribute(name)
        elif name in _SHARED:
            methods[name] = _SHARED[name]
        elif name in compare:
            methods[name] = compare[name]
        elif name == "__missing__":
            methods[name] = _forward("getitem")
    if "__eq__" in methods:
        methods["__hash__"] = _hash_of(base)
    return methods


def _by_contents(base: type, name: str) -> Callable[..., Any] | None:
    """Return a type's own operator, applied to the plain contents of an image.

    The operators of Counter and deque would otherwise iterate over the image itself, and ask the
    owner for its items.
    """
    method = getattr(base, f"__{name}__", None)
    if method is None or name in IN_PLACE:
        return method
    return lambda self, other, /: method(flatten(self), flatten(other))


def _by_contents_reflected(base: type, name: str) -> Callable[..., Any]:
    """Return the reflected operator, for plain data on the left of an image.

    Without it the operation would ask the image on the right.
    """
    method = getattr(base, f"__{name}__")

    def reflected(self: Any, other: Any, /) -> Any:
        return method(other, flatten(self)) if type(other) is base else NotImplemented

    return reflected


def _answer_methods(base: type, names: list[str]) -> dict[str, Any]:
    """Return the methods of an image in the judge, which compare plain data with plain contents."""
    own = {f"__{name}__": _by_contents(base, name) for name in (*_BETWEEN, "eq", "ne")}
    compare: dict[str, Any] = {
        f"__{name}__": _forward_between(name, own[f"__{name}__"])
        for name in (*_BETWEEN, "eq", "ne")
    }
    compare["__hash__"] = _hash_of(base)
    methods = _image_methods(base, names, compare)
    if not issubclass(base, BaseException):
        for name in BINARY:
            if own[f"__{name}__"] and not hasattr(base, f"__r{name}__"):
                own[f"__r{name}__"] = _by_contents_reflected(base, name)
        inherited = {name: method for name, method in own.items() if method and name not in methods}
        methods |= inherited | {"__hash__": methods.get("__hash__", base.__hash__)}
    return methods


def _given_methods(base: type, names: list[str]) -> dict[str, Any]:
    """Return the methods of an image in the program."""
    compare = {f"__{name}__": _forward(name) for name in (*_TO_ALL, *IN_PLACE)}
    return _image_methods(base, names, compare)


_ALWAYS = ("call", "iter", "next", "eq", "ne", "hash", "bool")
_NEVER = ("substitute", "dir", "signature", "await", "aiter", "anext", "aenter", "aexit")
_OF_FUNCTIONS = ("__name__", "__qualname__", "__doc__")


def permits(subject: object, operation: str, operands: tuple[Any, ...]) -> bool:
    """Whether a program may do an operation on an object that it received from the tests.

    A program may call functions and advance iterators. It sees attributes and methods of instances
    of the tests' own classes, and the name and docstring of functions. It sees no attribute of any
    other object, because frames and globals would lead to the expected values.
    """
    if operation in _ALWAYS:
        return True
    if operation in _NEVER:
        return False
    if operation == "getattr" and type(subject) is types.FunctionType:
        return type(operands[0]) is str and operands[0] in _OF_FUNCTIONS
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


JUDGE = Side(Answer, Coroutine, _answer_methods, permits)
PROGRAM = Side(Given, Given, _given_methods, lambda *_: True)
