"""Read TensorBoard event files without TensorBoard or TensorFlow.

A file is a sequence of records: length, checksum of the length, message, checksum of the message.
The checksums are CRC-32C, computed for all records at once, one byte position at a time.
"""

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from selfreg.integrations.audit.source import Source
from selfreg.integrations.audit.table import Builder, Table
from selfreg.integrations.audit.wire import DecodeError, messages

FORM = "TensorBoard"
_MASK = 0xA282EAD8
_POLYNOMIAL = 0x82F63B78
_CONTENTS = {1: "<f", 2: "<d", 3: "<i", 9: "<q"}
# Longer records hold graphs or histograms, and their checksums are not verified.
_CHECKED = 1 << 14


def is_events(head: bytes) -> bool:
    """Return whether a file begins like an event file, whose first record holds a version."""
    if len(head) < 24:
        return False
    (length,) = struct.unpack_from("<Q", head)
    return 8 < length < 200 and b"brain.Event" in head[: length + 12]


def read_events(source: Source) -> tuple[Table, float]:
    """Read the scalars of one event file, one row per event, and the time of its first event.

    A record that is cut off at the end of the file is left out. A run that is still writing leaves
    such records.

    Raises:
      ValueError: A checksum is wrong, or a record is not an event.
    """
    records, cut = _records(source)
    event, rows, started = messages()["Event"], Builder(), float("inf")
    for message in records:
        try:
            found = event.FromString(message)
        except DecodeError as error:
            raise ValueError(
                f"{source.path} holds a record that is not a TensorBoard event"
            ) from error
        if found.wall_time:
            started = min(started, found.wall_time)
        scalars = {value.tag: _number(value) for value in found.summary.value}
        scalars = {tag: number for tag, number in scalars.items() if number is not None}
        if scalars:
            rows.add({"step": found.step, **scalars})
    notes = ["its last record is cut off"] if cut else []
    return rows.table(FORM, notes=notes), started


def _records(source: Source) -> tuple[list[bytes], bool]:
    """Return the messages, and whether the file ends within a record."""
    data = source.bytes()
    at, found, sums = 0, [], []
    heads, head_sums = [], []
    while at + 12 <= len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        heads.append(data[at : at + 8])
        head_sums.append(data[at + 8 : at + 12])
        if at + 16 + length > len(data):
            break
        found.append(data[at + 12 : at + 12 + length])
        sums.append(data[at + 12 + length : at + 16 + length])
        at += 16 + length
    checked = [i for i, record in enumerate(found) if len(record) <= _CHECKED]
    if not (
        _hold(heads, head_sums) and _hold([found[i] for i in checked], [sums[i] for i in checked])
    ):
        raise ValueError(
            f"{source.path} is not a TensorBoard event file, or is damaged: a checksum is wrong"
        )
    return found, at < len(data)


def _hold(records: Sequence[bytes], checksums: Sequence[bytes]) -> bool:
    if not records:
        return True
    crc = crc32c(records)
    masked = ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF
    return bool((masked == np.array([int.from_bytes(c, "little") for c in checksums])).all())


def crc32c(records: Sequence[bytes]) -> np.ndarray:
    """Return the CRC-32C of each record, as uint64 [records]."""
    lengths = np.array([len(record) for record in records])
    order = np.argsort(-lengths, kind="stable")
    lengths = lengths[order]
    data = np.frombuffer(b"".join(records[i] for i in order) + b"\0", np.uint8)
    starts = np.cumsum(lengths) - lengths
    table = _table()
    crc = np.full(len(records), 0xFFFFFFFF, np.uint64)
    for j in range(int(lengths[0])):
        n = int(np.searchsorted(-lengths, -j))  # records longer than j come first
        index = (crc[:n] ^ data[starts[:n] + j]) & np.uint64(0xFF)
        crc[:n] = table[index] ^ (crc[:n] >> np.uint64(8))
    result = np.empty_like(crc)
    result[order] = crc ^ np.uint64(0xFFFFFFFF)
    return result


def _table() -> np.ndarray:
    table = np.arange(256, dtype=np.uint64)
    for _ in range(8):
        odd = table & np.uint64(1)
        table = (table >> np.uint64(1)) ^ (odd * np.uint64(_POLYNOMIAL))
    return table


def _number(value: Any) -> float | None:
    """Return a scalar, stored as simple_value or as a tensor of one number; None for the rest."""
    if value.HasField("simple_value"):
        return float(value.simple_value)
    if not value.HasField("tensor"):
        return None
    tensor = value.tensor
    form = _CONTENTS.get(tensor.dtype)
    if form is not None and len(tensor.tensor_content) == struct.calcsize(form):
        return float(struct.unpack(form, tensor.tensor_content)[0])
    numbers = [*tensor.float_val, *tensor.double_val, *tensor.int_val, *tensor.int64_val]
    return float(numbers[0]) if len(numbers) == 1 else None
