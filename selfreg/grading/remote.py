"""Remote objects: each process calls the other's objects, and serves calls of its own.

    request   [operation, mark, object, operands, keywords, changes]
    reply     [mark, exception or null, result, changes, changes of newly shared containers]

While a side waits for its reply it serves requests, so that a callback can call back. An object
that is not plain data stays in its process and travels as ["o", number]. When it is sent back to
its owner it travels as ["h", number]. A message that no honest side sends is a ProtocolError, and
ends the conversation.

Containers that belong to an object (its attributes, its items) are shared: both sides hold a copy.
Each message reports the changes to shared containers and to the arguments of the call.
"""

import operator
import os
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from selfreg.grading import values
from selfreg.grading.images import ImageMaker, maker_of
from selfreg.grading.operations import OPERATIONS
from selfreg.grading.values import Decoder, Encoder

_mro = type.__dict__["__mro__"].__get__

# Containers that these operations return still belong to the object, and are shared.
_SHARING = ("getattr", "getitem")
# Nesting of calls while a value is encoded or decoded: enough for lists a thousand levels deep.
DEEP = 4000
_MARK_BYTES = 6
_KNOWN = 2  # the parts of an encoded exception class that both sides have
_BAD = (TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RecursionError)


class ProtocolError(BaseException):
    """The other side sent an invalid message. A test's `except Exception` does not catch this."""


class Proxy:
    """A stand-in for an object of the other side. Subclasses define the operations on it."""

    __slots__ = ("_number", "_peer")


# The slots are removed from the class, so that a program's object may use these names.
_slots = vars(Proxy)["_peer"], vars(Proxy)["_number"]
_peer_of, _number_of = (slot.__get__ for slot in _slots)
del Proxy._peer, Proxy._number  # type: ignore[attr-defined]


def make_proxy(kind: type[Proxy], peer: "Peer", number: int) -> Proxy:
    """Return a proxy for the object of the other side with this number."""
    proxy = object.__new__(kind)
    for slot, value in zip(_slots, (peer, number), strict=True):
        slot.__set__(proxy, value)
    return proxy


def locate(value: Any) -> tuple["Peer", int]:
    """Return the peer that a proxy or an image belongs to, and the number of its object."""
    if issubclass(type(value), Proxy):
        return _peer_of(value), _number_of(value)
    maker = maker_of(value)
    number = None if maker is None else maker.address(value)
    if maker is None or number is None:
        raise TypeError(f"{type(value).__name__} stands for nothing")
    return maker.peer, number


class Side(NamedTuple):
    """How one side represents the other's objects, and which operations it permits on its own.

    Attributes:
      proxy: The class of proxies for objects of the other side.
      coroutine: The class of proxies for coroutines of the other side.
      methods: Returns the methods of an image (`images.py`).
      permits: Whether the other side may do an operation on an object of this side.
    """

    proxy: type[Proxy]
    coroutine: type[Proxy]
    methods: Callable[[type, list[str]], dict[str, Any]]
    permits: Callable[[Any, str, tuple[Any, ...]], bool]


def _nothing() -> None: ...


class Peer:
    """One side of a conversation.

    Attributes:
      calls: The number of calls that this side made to objects of the other side.
      broken: The reason that ended the conversation; empty while it continues.
      error: The last exception that the other side raised.
      error_detail: A one-line description of `error`.
      errors: All exceptions that came from the other side, by id.
      before_message: A function that is called before each request or reply is sent.
      may_stop: Whether StopIteration may come from an operation other than `next`. If it may not,
        it becomes a RuntimeError: `map`, `zip` and the like would otherwise end early, as if there
        were nothing left to check.
    """

    def __init__(
        self,
        send: Callable[[bytes], None],
        receive: Callable[[], bytes],
        side: Side,
        describe: Callable[[BaseException], str],
    ) -> None:
        """Take part in a conversation.

        Args:
          send: Sends a message.
          receive: Receives a message.
          side: Which side this is.
          describe: Returns a one-line description of an exception that is sent to the other side.
        """
        self.calls = 0
        self.broken = ""
        self.error: BaseException | None = None
        self.error_detail = ""
        self.errors: dict[int, BaseException] = {}
        self.before_message: Callable[[], None] = _nothing
        self.may_stop = True
        self._send, self._receive, self._side = send, receive, side
        self._describe = describe
        self._objects: list[Any] = []
        self._numbers: dict[int, int] = {}
        self._images = ImageMaker(self, side.methods)
        # Containers that both sides hold, and their contents as the other side knows them.
        self._shared: list[Any] = []
        self._synced: list[list[Any]] = []

    def request(
        self,
        operation: str,
        number: int,
        /,
        *operands: Any,
        keywords: Mapping[str, Any] | None = None,
    ) -> Any:
        """Do an operation on the object of the other side with this number, and return the result.

        Raises:
          ProtocolError: The other side misbehaves now, or did before.
          BaseException: The operation raised it on the other side.
        """
        if self.broken:
            raise ProtocolError(self.broken)
        self.before_message()
        held = len(self._shared)
        encoder = Encoder(self._opaque, self._shared, self._images)
        # The mark is random because a plain counter could be guessed, and a reply written in
        # advance.
        mark = int.from_bytes(os.urandom(_MARK_BYTES), "little")
        self.calls += operation == "call"
        changes = self._changes(encoder, self._shared, self._synced)
        sent = [encoder.encode(operand) for operand in operands]
        named = {name: encoder.encode(value) for name, value in (keywords or {}).items()}
        self._send(values.dump([operation, mark, number, sent, named, changes]))
        try:
            error, result, changes, later = self._await_reply(mark)
            decoder = Decoder(self._resolve, encoder.known, self._images)
            result = decoder.decode(result)
            raised = error and self._decode_error(decoder, *error)
            for index, contents in changes:
                decoder.fill(decoder.known[operator.index(index)], contents)
            for index, contents in later:
                decoder.fill(self._shared[operator.index(index)], contents)
        except _BAD as failure:
            self._break(failure)
        self._settle(decoder.known, held, len(encoder.known), operation)
        if raised is not None:
            if isinstance(raised, StopIteration) and operation != "next" and not self.may_stop:
                raise RuntimeError("the program raised StopIteration") from raised
            raise raised
        return result

    def serve(self) -> None:
        """Receive a request, carry it out and reply."""
        self._serve(*values.load(self._receive()))

    def export(self, value: Any) -> Any:
        """Encode a value for `adopt` of the other side."""
        encoder = Encoder(self._opaque, self._shared, self._images)
        encoded = encoder.encode(value)
        self._settle(encoder.known, len(self._shared), 0, "getattr")
        return encoded

    def export_object(self, value: Any) -> list[Any]:
        """Encode any object as a reference, for `adopt` of the other side."""
        return ["o", self.number(value)]

    def adopt(self, value: Any) -> Any:
        """Decode a value that the other side exported.

        Raises:
          ProtocolError: The value is invalid.
        """
        try:
            decoder = Decoder(self._resolve, self._shared, self._images)
            decoded = decoder.decode(value)
        except _BAD as failure:
            self._break(failure)
        self._settle(decoder.known, len(self._shared), 0, "getattr")
        return decoded

    def address(self, value: Any) -> int | None:
        """Return the other side's number of the object behind a value; None if there is none."""
        if issubclass(type(value), Proxy):
            return _number_of(value) if _peer_of(value) is self else None
        return self._images.address(value) if maker_of(value) is self._images else None

    def number(self, value: Any) -> int:
        """Return the number of an object of this side."""
        number = self._numbers.get(id(value))
        if number is None:
            number = self._numbers[id(value)] = len(self._objects)
            self._objects.append(value)  # the reference keeps its id from being reused
        return number

    def own(self, number: Any) -> Any:
        """Return the object of this side with this number."""
        return self._objects[operator.index(number)]

    def _break(self, failure: BaseException) -> NoReturn:
        self.broken = f"the program sent nonsense: {failure!r:.100}"
        raise ProtocolError(self.broken) from None

    def _changes(
        self,
        encoder: Encoder,
        containers: Sequence[Any],
        before: Sequence[list[Any]],
        first: int = 0,
    ) -> list[Any]:
        """Return the containers that changed since `before`, as [number, contents] pairs.

        The first container has the number `first`.
        """
        pairs = list(zip(containers, before, strict=False))
        return [
            [number, encoder.contents(container)]
            for number, (container, past) in enumerate(pairs, first)
            if not values.same(past, values.items(container))
        ]

    def _settle(self, known: Sequence[Any], held: int, sent: int, operation: str) -> None:
        """Record the contents of all shared containers after a request and its reply.

        Args:
          known: The containers of both messages.
          held: The number of these that were shared before.
          sent: The number of containers known at the end of the request.
          operation: The operation of the request.
        """
        self._synced = list(map(values.items, self._shared))
        brought, given = known[held:sent], known[max(held, sent) :]
        new = [c for c in brought if values.is_extended(c)]
        new += given if operation in _SHARING else [c for c in given if values.is_extended(c)]
        self._shared += new
        self._synced += map(values.items, new)

    def _await_reply(self, mark: int) -> list[Any]:
        while True:
            message = values.load(self._receive())
            if type(message) is not list or not message:
                raise ValueError("no message")
            if type(message[0]) is str:
                self._serve(*message)
                continue
            replied, *reply = message
            if replied != mark:
                raise ValueError("a reply to another request")
            return reply

    def _serve(
        self,
        operation: str,
        number: int,
        target: int,
        sent: list[Any],
        named: dict[str, Any],
        changed: list[Any],
    ) -> None:
        held = len(self._shared)
        decoder = Decoder(self._resolve, self._shared, self._images)
        for index, contents in changed:
            container = self._shared[operator.index(index)]
            decoder.fill(container, contents)
            self._synced[index] = values.items(container)
        operands = tuple(map(decoder.decode, sent))
        keywords = {name: decoder.decode(value) for name, value in named.items()}
        subject, work = self.own(target), OPERATIONS[operation]
        known = decoder.known
        before = self._synced[:held] + [values.items(container) for container in known[held:]]
        error, result = None, None
        try:
            if not self._side.permits(subject, operation, operands):
                raise AttributeError(f"a program cannot do {operation} here")
            encoder, result = self._encode(work(subject, *operands, **keywords), known)
        except ProtocolError:
            raise
        except BaseException as raised:
            encoder, result = Encoder(self._opaque, known, self._images), None
            error = [*self._encode_exception(encoder, raised), self._describe(raised)]
        changes = self._changes(encoder, encoder.known, before)
        later = self._changes(encoder, self._shared[held:], self._synced[held:], held)
        self.before_message()
        self._send(values.dump([number, error, result, changes, later]))
        self._settle(encoder.known, held, len(known), operation)

    def _encode(self, value: Any, known: Sequence[Any]) -> tuple[Encoder, Any]:
        encoder = Encoder(self._opaque, known, self._images)
        try:
            return encoder, encoder.encode(value)
        except RecursionError:
            # The recursion limit is for the program's own calls. The encoder takes three for each
            # level of a list.
            limit = sys.getrecursionlimit()
            sys.setrecursionlimit(max(limit, DEEP))
            try:
                encoder = Encoder(self._opaque, known, self._images)
                return encoder, encoder.encode(value)
            finally:
                sys.setrecursionlimit(limit)

    def _opaque(self, value: Any) -> list[Any]:
        number = self.address(value)
        if number is not None:
            return ["h", number]
        kind = type(value)
        if BaseException in _mro(kind):
            return ["X", *self._encode_exception(Encoder(self._opaque), value)]
        if isinstance(value, type) and BaseException in _mro(value):
            return self._images.encode_exception_class(value)
        if kind is types.CoroutineType:
            return ["o", self.number(value), "coroutine"]
        return ["o", self.number(value)]

    def _resolve(self, value: Sequence[Any]) -> Any:
        tag = value[0]
        if tag == "h":
            return self.own(value[1])
        if tag in ("E", "L"):
            return self._images.decode_exception_class(*value)
        if tag == "X":
            return self._decode_exception(Decoder(self._resolve), *value[1:])
        if tag != "o":
            raise ValueError(f"no value begins with {tag!r:.20}")
        number = operator.index(value[1])
        found = self._images.found
        if number not in found:
            kind = self._side.coroutine if value[2:] == ["coroutine"] else self._side.proxy
            found[number] = make_proxy(kind, self, number)
        return found[number]

    def _encode_exception(self, encoder: Encoder, error: BaseException) -> list[Any]:
        """Encode an exception: class, `args`, number (if its class has an image) and attributes."""
        home = self.address(error)
        if home is not None:
            return [["h", home], [], None, {}]
        kind = self._images.encode_exception_class(type(error))
        is_own = kind[0] == "E" and len(kind) > _KNOWN
        own = {} if is_own else dict(object.__getattribute__(error, "__dict__"))
        if error.__cause__ is not None and error.__cause__ is not error:
            own["__cause__"] = error.__cause__
        arguments = list(map(encoder.encode, error.args))
        attributes = {name: encoder.encode(value) for name, value in own.items()}
        return [kind, arguments, self.number(error) if is_own else None, attributes]

    def _decode_exception(
        self,
        decoder: Decoder,
        kind: list[Any],
        arguments: list[Any],
        number: int | None,
        own: dict[str, Any],
    ) -> BaseException:
        if kind[0] == "h" and BaseException in _mro(type(self.own(kind[1]))):
            return self.own(kind[1])
        found = self._images.decode_exception_class(*kind)
        decoded = list(map(decoder.decode, arguments))
        attributes = {name: decoder.decode(value) for name, value in own.items()}
        error = self._images.make_exception(found, number, decoded, attributes)
        self.errors[id(error)] = error
        return error

    def _decode_error(self, decoder: Decoder, *parts: Any) -> BaseException:
        *exception, detail = parts
        error = self._decode_exception(decoder, *exception)
        self.error, self.error_detail = error, str(detail)
        return error
