"""Write scalars as a TensorBoard event file.

The libraries that write such files load torch where it is installed. That takes seconds, and brings
CUDA libraries of torch's own beside jax's into one process.

A file is a sequence of records: the length as uint64, its checksum, an Event protocol buffer, its
checksum; all little-endian (tensorflow/core/lib/io/record_writer.h). A checksum is a CRC-32C,
rotated and offset (tensorflow/core/lib/hash/crc32c.h). Events are those of event.proto.
"""

import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

_POLYNOMIAL = 0x82F63B78  # Castagnoli's, with its bits reversed
_MASK = 0xA282EAD8
# The protocol buffers' field numbers and wire types, each as the byte that goes before the value.
_WALL_TIME, _STEP, _VERSION, _SUMMARY, _SESSION = b"\x09", b"\x10", b"\x1a", b"\x2a", b"\x3a"
_VALUE, _TAG, _SIMPLE_VALUE = b"\x0a", b"\x0a", b"\x15"
_START = b"\x08\x01"  # SessionLog.status = START


class EventFile:
    """An open event file, and a context manager that closes it."""

    def __init__(self, folder: Path, purge_step: int | None = None):
        """Begin a new file.

        Args:
          folder: Where TensorBoard looks; it is made.
          purge_step: TensorBoard drops what earlier files hold of this step and later ones.
        """
        folder.mkdir(parents=True, exist_ok=True)
        now = time.time_ns()
        host = socket.gethostname()
        name = f"events.out.tfevents.{now // 10**9}.{host}.{os.getpid()}.{now % 10**9:09d}"
        self._file = (folder / name).open("xb")
        self._write(_VERSION + _sized(b"brain.Event:2"))
        if purge_step is not None:
            self._write(_STEP + _varint(purge_step) + _SESSION + _sized(_START))
        self._file.flush()

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Add one number for each name, as float32, and flush."""
        for name, value in values.items():
            with np.errstate(over="ignore"):
                number = np.array(value, "<f4").tobytes()
            entry = _TAG + _sized(name.encode()) + _SIMPLE_VALUE + number
            self._write(_STEP + _varint(step) + _SUMMARY + _sized(_VALUE + _sized(entry)))
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> "EventFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, event: bytes) -> None:
        record = _WALL_TIME + struct.pack("<d", time.time()) + event
        length = struct.pack("<Q", len(record))
        self._file.write(length + _checksum(length) + record + _checksum(record))


def _sized(data: bytes) -> bytes:
    return _varint(len(data)) + data


def _varint(number: int) -> bytes:
    """A count in groups of seven bits, the lowest first; all but the last have the top bit set."""
    groups = []
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*groups, number])


def _make_table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (_POLYNOMIAL if byte & 1 else 0)
        table.append(byte)
    return table


_TABLE = _make_table()


def _checksum(data: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF)
