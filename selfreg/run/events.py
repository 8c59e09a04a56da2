"""Write scalars as a TensorBoard event file.

This module writes the files itself, because the usual libraries import torch if it is installed.
That import takes seconds, and loads torch's CUDA libraries into the same process as jax's.

A file is a sequence of records. A record is a length as uint64, the checksum of the length, an
Event protocol buffer, and its checksum, all little-endian (tensorflow/core/lib/io/record_writer.h).
A checksum is a CRC-32C, rotated and offset (tensorflow/core/lib/hash/crc32c.h). event.proto defines
the events.
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
# Field numbers and wire types of the protocol buffers. Each is the byte that precedes its value.
_WALL_TIME, _STEP, _VERSION, _SUMMARY, _SESSION = b"\x09", b"\x10", b"\x1a", b"\x2a", b"\x3a"
_VALUE, _TAG, _SIMPLE_VALUE = b"\x0a", b"\x0a", b"\x15"
_START = b"\x08\x01"  # SessionLog.status = START


class EventFile:
    """An open event file, and a context manager that closes it."""

    def __init__(self, folder: Path, purge_step: int | None = None):
        """Begin a new file.

        Args:
          folder: The folder that TensorBoard reads; it is created.
          purge_step: TensorBoard drops the values of this step and later ones from earlier files.
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
    """Encode a count in groups of seven bits, lowest first; all but the last set the top bit."""
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
