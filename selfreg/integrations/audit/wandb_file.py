"""Read the .wandb files that `wandb` writes, also for offline runs, without W&B's package.

The file is a LevelDB log: a header of 7 bytes, then blocks of 32 KiB. Each record is whole (type 1)
or split into parts (types 2, 3, 4), and each part follows a checksum, its length and its type.
"""

import json
import struct
from collections.abc import Iterator
from typing import Any

from selfreg.integrations.audit.source import Source
from selfreg.integrations.audit.table import Builder, Table, to_number
from selfreg.integrations.audit.wire import DecodeError, messages

_MAGIC = b":W&B"
_BLOCK, _HEADER = 32 * 1024, 7
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def is_wandb(head: bytes) -> bool:
    """Return whether a file begins like a .wandb file."""
    return head.startswith(_MAGIC)


def read_wandb(source: Source) -> Table:
    """Read the history, name and config of a run; damaged records are dropped and counted.

    Raises:
      ValueError: The file is larger than 1 GiB, or its compression is damaged.
    """
    record, rows, facts, name = messages()["Record"], Builder(), dict[str, float](), ""
    for data in _records(source.bytes()):
        try:
            found = record.FromString(data)
        except DecodeError:
            rows.dropped["damaged records"] += 1
            continue
        if found.HasField("run"):
            name = found.run.display_name or found.run.run_id
            facts |= _settings(found.run.config.update)
        if found.HasField("config"):
            facts |= _settings(found.config.update)
        if found.HasField("history"):
            row = {_key(item): _value(item) for item in found.history.item}
            row.setdefault("_step", found.history.step.num)
            rows.add(row)
    return rows.table("W&B run file", facts, name=name)


def _records(data: bytes) -> Iterator[bytes]:
    at, parts = _HEADER, b""
    while at + _HEADER <= len(data):
        left = _BLOCK - at % _BLOCK
        if left < _HEADER:  # too short for a header: padding at the end of a block
            at += left
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        part = data[at + _HEADER : at + _HEADER + length]
        if kind not in (_FULL, _FIRST, _MIDDLE, _LAST) or len(part) < length:
            return  # zeros, or a file that was cut while it was written
        at += _HEADER + length
        parts = part if kind in (_FULL, _FIRST) else parts + part
        if kind in (_FULL, _LAST):
            yield parts


def _key(item: Any) -> str:
    return item.key or "/".join(item.nested_key)


def _value(item: Any) -> Any:
    try:
        return json.loads(item.value_json)
    except (ValueError, RecursionError):
        return None


def _settings(items: Any) -> dict[str, float]:
    rows = Builder()
    rows.add({_key(item): _value(item) for item in items})
    return {
        name: number
        for name, column in rows.table("config").numbers.items()
        if (number := to_number(float(column.values[0]))) is not None
    }
