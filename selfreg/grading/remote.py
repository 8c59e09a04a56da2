"""Objects across a process boundary: each side calls the other's, and answers for its own.

    request   [operation, number, object, operands, keywords]
    reply     [number, exception or null, result, changed arguments]

While a side waits for its reply it serves requests, so that a callback can call back. An object
that is no plain data stays where it is and travels as ["o", number]; on its way home it is
["h", number]. What no honest side sends is a ProtocolError, and ends the conversation.
"""

import builtins
import json
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from selfreg.grading import values
from selfreg.grading.values import Decoder, Encoder

_EXCEPTIONS: dict[str, type[BaseException]] = {
    name: kind
    for name, kind in vars(builtins).items()
    if isinstance(kind, type) and issubclass(kind, BaseException)
}
_mro = type.__dict__["__mro__"].__get__

BINARY = (
    *("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "lshift", "rshift"),
    *("and", "or", "xor", "divmod"),
)
ORDER = ("lt", "le", "gt", "ge")
UNARY = ("neg", "pos", "abs", "invert", "index")
# What can be asked of an object. Bound here, before a program could replace any of it.
OPERATIONS: dict[str, Callable[..., Any]] = {
    **{
        name: getattr(operator, f"__{name}__")
        for name in (*BINARY, *ORDER, *UNARY, "eq", "ne")
        if name != "divmod"
    },
    "divmod": divmod,
    "call": lambda target, *operands, **keywords: target(*operands, **keywords),
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
}
_BAD = (TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RecursionError)


class ProtocolError(BaseException):
    """The other side sent what no honest one sends. No test's `except Exception` takes it."""


class Proxy:
    """Stands for an object of the other side; subclasses say what can be done to it."""

    __slots__ = ("_number", "_peer")
    _number: int
    _peer: "Peer"

    def __init__(self, peer: "Peer", number: int) -> None:
        object.__setattr__(self, "_peer", peer)
        object.__setattr__(self, "_number", number)


class Peer:
    """One side of a conversation.

    Attributes:
      calls: How often this side had something of the other side called.
      broken: What ended the conversation; empty while it goes on.
      error: The exception that came from the other side last, and `error_detail` a line on it.
      errors: All that came: a test may keep one and raise it when others have come.
    """

    def __init__(
        self,
        send: Callable[[bytes], None],
        receive: Callable[[], bytes],
        proxy: type[Proxy],
        permits: Callable[[Any, str, tuple[Any, ...]], bool],
        describe: Callable[[BaseException], str],
    ) -> None:
        """Take part in a conversation.

        Args:
          send: Sends a message.
          receive: Receives one.
          proxy: The class of what stands for objects of the other side.
          permits: Whether the other side may do an operation to an object of this one.
          describe: A line on an exception that goes to the other side.
        """
        self.calls = 0
        self.broken = ""
        self.error: BaseException | None = None
        self.error_detail = ""
        self.errors: list[BaseException] = []
        self._send, self._receive, self._proxy = send, receive, proxy
        self._permits, self._describe = permits, describe
        self._objects: list[Any] = []
        self._numbers: dict[int, int] = {}
        self._proxies: dict[int, Any] = {}
        self._requests = 0

    def request(
        self,
        operation: str,
        target: Proxy,
        *operands: Any,
        keywords: Mapping[str, Any] | None = None,
    ) -> Any:
        """Do an operation to an object of the other side.

        Raises:
          ProtocolError: The other side misbehaves, or did before.
          BaseException: What the operation raised there.
        """
        if self.broken:
            raise ProtocolError(self.broken)
        encoder = Encoder(self._opaque)
        self._requests += 1
        self.calls += operation == "call"
        sent = [encoder.encode(operand) for operand in operands]
        named = {name: encoder.encode(value) for name, value in (keywords or {}).items()}
        self._send(values.dump([operation, self._requests, target._number, sent, named]))
        try:
            reply = self._await_reply(self._requests)
            decoder = Decoder(self._resolve, encoder.known)
            error, result, changes = reply
            result = decoder.decode(result)
            error = error and self._decode_error(decoder, *error)
            for index, contents in changes:
                decoder.fill(decoder.known[operator.index(index)], contents)
        except _BAD as failure:
            self.broken = f"the program sent nonsense: {failure!r:.100}"
            raise ProtocolError(self.broken) from None
        if error is not None:
            raise error
        return result

    def serve(self) -> None:
        """Receive a request, do it and reply."""
        self._serve(*json.loads(self._receive()))

    def export(self, value: Any) -> Any:
        """A value as the other side's `adopt` takes it."""
        return Encoder(self._opaque).encode(value)

    def adopt(self, value: Any) -> Any:
        """The value that the other side exported.

        Raises:
          ProtocolError: It is none.
        """
        try:
            return Decoder(self._resolve).decode(value)
        except _BAD as failure:
            self.broken = f"the program sent nonsense: {failure!r:.100}"
            raise ProtocolError(self.broken) from None

    def _await_reply(self, number: int) -> list[Any]:
        while True:
            message = json.loads(self._receive())
            if type(message) is not list or not message:
                raise ValueError("no message")
            if type(message[0]) is str:
                self._serve(*message)
                continue
            replied, *reply = message
            if replied != number:
                raise ValueError("a reply to another request")
            return reply

    def _serve(
        self, operation: str, number: int, target: int, sent: list[Any], named: dict[str, Any]
    ) -> None:
        decoder = Decoder(self._resolve)
        operands = tuple(map(decoder.decode, sent))
        keywords = {name: decoder.decode(value) for name, value in named.items()}
        subject, work = self._objects[operator.index(target)], OPERATIONS[operation]
        known = decoder.known
        before = [values.items(container) for container in known]
        encoder, error, result = Encoder(self._opaque, known), None, None
        try:
            if not self._permits(subject, operation, operands):
                raise AttributeError(f"a program cannot do {operation} here")
            result = encoder.encode(work(subject, *operands, **keywords))
        except ProtocolError:
            raise
        except BaseException as raised:
            encoder = Encoder(self._opaque, known)
            error = self._encode_error(encoder, raised)
        changes = [
            [index, encoder.contents(container)]
            for index, container in enumerate(known)
            if not values.same(before[index], values.items(container))
        ]
        self._send(values.dump([number, error, result, changes]))

    def _opaque(self, value: Any) -> list[Any]:
        if type(value) is self._proxy:
            return ["h", value._number]
        if isinstance(value, type) and BaseException in _mro(value):
            return self._encode_exception_class(value)
        return ["o", self._number(value)]

    def _number(self, value: Any) -> int:
        number = self._numbers.get(id(value))
        if number is None:
            number = self._numbers[id(value)] = len(self._objects)
            self._objects.append(value)  # which also keeps its id from being used again
        return number

    def _resolve(self, value: Sequence[Any]) -> Any:
        tag = value[0]
        if tag == "h":
            return self._objects[operator.index(value[1])]
        if tag == "E":
            return self._decode_exception_class(*value[1:])
        if tag != "o":
            raise ValueError(f"no value begins with {tag!r:.20}")
        number = operator.index(value[1])
        if number not in self._proxies:
            self._proxies[number] = self._proxy(self, number)
        return self._proxies[number]

    # An exception arrives as one that the other side's `except` can catch: of the same builtin
    # class, or of a class made in the image of the one that a program defined.

    def _encode_error(self, encoder: Encoder, error: BaseException) -> list[Any]:
        kind = self._encode_exception_class(type(error))
        return [kind, [encoder.encode(part) for part in error.args], self._describe(error)]

    def _decode_error(
        self, decoder: Decoder, kind: list[Any], sent: list[Any], detail: str
    ) -> BaseException:
        made = self._decode_exception_class(*kind[1:])
        error = made.__new__(made, *map(decoder.decode, sent))
        if isinstance(error, StopIteration) and error.args:
            error.value = error.args[0]
        self.error, self.error_detail = error, str(detail)
        self.errors.append(error)
        return error

    def _encode_exception_class(self, kind: type[BaseException]) -> list[Any]:
        name = kind.__name__
        if _EXCEPTIONS.get(name) is kind:
            return ["E", name]
        base = next(base for base in _mro(kind)[1:] if BaseException in _mro(base))
        return ["E", name, self._number(kind), self._encode_exception_class(base)]

    def _decode_exception_class(
        self, name: str, number: int | None = None, base: Sequence[Any] = ()
    ) -> type[BaseException]:
        if number is None:
            return _EXCEPTIONS[name]
        if number not in self._proxies:
            parent = self._decode_exception_class(*base[1:])
            self._proxies[number] = type(str(name), (parent,), {})
        return self._proxies[number]
