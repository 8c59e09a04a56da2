"""Read the time and memory limits of competition problems, in any of their units."""

import math
import re
from collections.abc import Mapping
from typing import Any

# The interpreter alone takes about 40 MiB of address space, and a harness's modules as much again.
LEAST_PYTHON_MB = 128

_SECONDS = {"": 1.0, "s": 1.0, "sec": 1.0, "second": 1.0, "ms": 1e-3, "millisecond": 1e-3}
_MIB = {
    **dict.fromkeys(("b", "byte"), 1 / (1 << 20)),
    **dict.fromkeys(("kb", "kib", "kilobyte"), 1 / 1024),
    **dict.fromkeys(("", "mb", "mib", "megabyte"), 1.0),
    **dict.fromkeys(("gb", "gib", "gigabyte"), 1024.0),
}
_AMOUNT = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-z]*?)s?\.?\s*", re.IGNORECASE)
# A limit above this is refused. A bare number so large is not in MiB, and its unit is unknown.
_MOST_MB = 1 << 16


def time_limit_s(row: Mapping[str, Any]) -> float:
    """Return `time_limit` in seconds; 0 for none.

    The row may hold a number, a text such as "2.0 seconds", or {"seconds": ..., "nanos": ...}.

    Raises:
      ValueError: The value is in none of these forms.
    """
    limit = row.get("time_limit")
    if isinstance(limit, Mapping):
        limit = (limit.get("seconds") or 0) + (limit.get("nanos") or 0) * 1e-9
    found = _amount(limit, _SECONDS)
    if found is None:
        raise ValueError(f"'time_limit' must be a number of seconds, not {limit!r:.60}")
    return found


def memory_limit_mb(row: Mapping[str, Any]) -> int:
    """Return `memory_limit_bytes` or `memory_limit` ("256 megabytes", 256.0) in MiB; 0 for none.

    Raises:
      ValueError: The value is in none of these forms, or too large.
    """
    key = "memory_limit_bytes" if row.get("memory_limit_bytes") else "memory_limit"
    limit = row.get(key)
    if key == "memory_limit_bytes":
        found = _amount(limit, {"": 1 / (1 << 20)})
    else:
        found = _amount(limit, _MIB)
    if found is None or found > _MOST_MB:
        raise ValueError(f"{key!r} must be an amount of memory with its unit, not {limit!r:.60}")
    return math.ceil(found)


def _amount(value: Any, units: Mapping[str, float]) -> float | None:
    """Convert an amount to the unit of factor 1; return 0 for no value, None for an invalid one."""
    if value is None or value == "":
        return 0.0
    if isinstance(value, str):
        match = _AMOUNT.fullmatch(value)
        unit = match[2].lower() if match else ""
        # In "2 s" the pattern reads the "s" as a plural ending, but here it is the unit.
        if match and not unit and re.search(r"\d\s*s\s*$", value, re.IGNORECASE):
            unit = "s"
        if match and unit + "s" in units:
            unit += "s"
        return float(match[1]) * units[unit] if match and unit in units else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value * units[""] if 0 <= value < math.inf else None
