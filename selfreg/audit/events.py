"""TensorBoard event files, read without TensorFlow.

The records' messages are those of tensorboardX, which writes the files of selfreg itself; what is
added is their framing: length, checksum of the length, message, checksum of the message.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tensorboardX.crc32c import crc32c
from tensorboardX.proto.event_pb2 import Event

_MASK = 0xA282EAD8
_FORMATS = {1: "<f", 2: "<d"}


def read_events(file: Path) -> dict[str, dict[int, float]]:
    """The scalars of one event file: by tag, then by step; of a step written twice, the later.

    A record that is cut at the end of the file, as a run that goes on leaves it, is left out.

    Raises:
      ValueError: A checksum does not hold, or a record is no event.
    """
    scalars: dict[str, dict[int, float]] = {}
    for message in _records(file):
        try:
            event = Event.FromString(message)
        except Exception as error:  # protobuf's own class is not the same in all its versions
            raise ValueError(f"{file} holds a record that is no TensorBoard event") from error
        for value in event.summary.value:
            number = _number(value)
            if number is not None:
                scalars.setdefault(value.tag, {})[event.step] = number
    return scalars


def _records(file: Path) -> Iterator[bytes]:
    data = file.read_bytes()
    at = 0
    while at + 12 <= len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        _check(file, data[at : at + 8], data[at + 8 : at + 12])
        if at + 16 + length > len(data):
            return
        message = data[at + 12 : at + 12 + length]
        _check(file, message, data[at + 12 + length : at + 16 + length])
        yield message
        at += 16 + length


def _check(file: Path, data: bytes, checksum: bytes) -> None:
    crc = crc32c(data)
    masked = ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF
    if struct.pack("<I", masked) != checksum:
        raise ValueError(f"{file} is no TensorBoard event file, or is damaged: a checksum is wrong")


def _number(value: Any) -> float | None:
    """A scalar of the old kind (simple_value) or of the new one (a tensor of one number)."""
    kind = value.WhichOneof("value")
    if kind == "simple_value":
        return float(value.simple_value)
    if kind != "tensor":
        return None
    tensor = value.tensor
    form = _FORMATS.get(tensor.dtype)
    if form is not None and len(tensor.tensor_content) == struct.calcsize(form):
        return float(struct.unpack(form, tensor.tensor_content)[0])
    numbers = [*tensor.float_val, *tensor.double_val]
    return float(numbers[0]) if len(numbers) == 1 else None
