"""Messages between the pool and its workers: JSON after a four-byte length."""

import json
import socket
import struct
from typing import Any

_LENGTH = struct.Struct("!I")
# The most bytes to receive at a time, because recv allocates all that it is asked for.
_PART_BYTES = 1 << 20


def send(connection: socket.socket, message: dict[str, Any]) -> None:
    """Send one message.

    Raises:
      OSError: The other side is gone, or does not read within the connection's timeout.
    """
    body = json.dumps(message).encode()
    connection.sendall(_LENGTH.pack(len(body)) + body)


def receive(connection: socket.socket, max_bytes: int) -> dict[str, Any] | None:
    """Receive one message; return None at the end of the stream.

    Raises:
      OSError: The other side is gone, or stops within a message.
      ValueError: The data is not a message of at most `max_bytes`.
    """
    head = _receive_bytes(connection, _LENGTH.size)
    if not head:
        return None
    (length,) = _LENGTH.unpack(head)
    if length > max_bytes:
        raise ValueError(f"a message of {length} bytes is longer than {max_bytes}")
    message = json.loads(_receive_bytes(connection, length))
    if not isinstance(message, dict):
        raise ValueError(f"a message must be a JSON object, not {message!r:.60}")
    return message


def _receive_bytes(connection: socket.socket, count: int) -> bytes:
    """Return exactly `count` bytes, or none if the stream ends before the first."""
    data = bytearray()
    while len(data) < count:
        part = connection.recv(min(count - len(data), _PART_BYTES))
        if not part and not data:
            break
        if not part:
            raise ConnectionResetError("the stream ended within a message")
        data += part
    return bytes(data)
