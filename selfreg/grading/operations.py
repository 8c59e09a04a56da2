"""The operations that one side of a conversation can request on the other's objects."""

import copy
import operator
from collections.abc import Callable
from typing import Any

from selfreg.grading.streams import substitute

_loop: Any = None


def _complete(awaitable: Any) -> Any:
    """Run an awaitable to its end.

    All awaitables of a program share one event loop, as its locks and queues require.
    """
    import asyncio  # few programs need it, and it is large

    async def wait() -> Any:
        return await awaitable

    global _loop
    if _loop is None:
        _loop = asyncio.new_event_loop()
    return _loop.run_until_complete(wait())


def _describe_signature(target: Any) -> tuple[list[Any], list[Any]]:
    """Return a callable's parameters and return annotation, with empty lists for missing parts."""
    import inspect  # as above

    signature = inspect.signature(target)
    empty = signature.empty
    parameters = [
        (p.name, int(p.kind), *([v] if v is not empty else [] for v in (p.default, p.annotation)))
        for p in signature.parameters.values()
    ]
    returns = signature.return_annotation
    return parameters, [returns] if returns is not empty else []


BINARY = (
    *("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "lshift", "rshift"),
    *("and", "or", "xor", "divmod"),
)
IN_PLACE = tuple(f"i{name}" for name in BINARY if name != "divmod")
ORDER = ("lt", "le", "gt", "ge")
UNARY = ("neg", "pos", "abs", "invert", "index")
# The operations by name. The functions are bound here, before a program could replace any of them.
OPERATIONS: dict[str, Callable[..., Any]] = {
    **{
        name: getattr(operator, f"__{name}__")
        for name in (*BINARY, *IN_PLACE, *ORDER, *UNARY, "eq", "ne")
        if name != "divmod"
    },
    "divmod": divmod,
    "call": lambda target, /, *operands, **keywords: target(*operands, **keywords),
    "getattr": getattr,
    "setattr": setattr,
    "delattr": delattr,
    "getitem": operator.getitem,
    "setitem": operator.setitem,
    "delitem": operator.delitem,
    "contains": operator.contains,
    "len": len,
    "iter": iter,
    "reversed": reversed,
    "next": next,
    "bool": bool,
    "int": int,
    "float": float,
    "complex": complex,
    "round": round,
    "str": str,
    "repr": repr,
    "format": format,
    "hash": hash,
    "isinstance": lambda target, value: isinstance(value, target),
    "issubclass": lambda target, value: issubclass(value, target),
    "enter": lambda target: type(target).__enter__(target),
    "exit": lambda target, *error: type(target).__exit__(target, *error),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "dir": dir,
    "substitute": substitute,
    "signature": _describe_signature,
    "await": _complete,
    "aiter": aiter,
    "anext": lambda target: _complete(anext(target)),
    "aenter": lambda target: _complete(type(target).__aenter__(target)),
    "aexit": lambda target, *error: _complete(type(target).__aexit__(target, *error)),
}
