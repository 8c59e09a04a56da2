"""W&B's own .wandb files, as `wandb` writes them, offline runs included; without W&B's package.

The file is LevelDB's log: a header of 7 bytes, then blocks of 32 KiB with records that are whole
(type 1) or in parts (2, 3, 4), each behind a checksum, its length and its type.
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
    """Whether a file's first bytes are W&B's."""
    return head.startswith(_MAGIC)


def read_wandb(source: Source) -> Table:
    """The history of a run, its name, and the settings of its config.

    Raises:
      ValueError: A record is none of W&B's.
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
        if left < _HEADER:  # the rest of a block is padding
            at += left
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        part = data[at + _HEADER : at + _HEADER + length]
        if kind not in (_FULL, _FIRST, _MIDDLE, _LAST) or len(part) < length:
            return  # zeros, or cut while it was written
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
