"""Read and write a row's checker: a name, or an object with a name and the changed settings.

"tokens"
{"name": "floats", "absolute": 1e-4, "relative": 0}
{"name": "program", "language": "cpp", "protocol": "testlib", "program": "..."}
"""

from collections.abc import Mapping
from typing import Any

from selfreg.data.json_values import get_language, read_fields
from selfreg.run.records import Checker, Language, to_json

CHECKERS = {
    "exact": Checker("exact"),
    "lines": Checker("lines"),
    "tokens": Checker("tokens"),
    "floats": Checker("floats", absolute=1e-6, relative=1e-6),
    "caseless": Checker("caseless", caseless=True),
    "unordered": Checker("unordered"),
    "any_of": Checker("any_of"),
}
PROTOCOLS = ("testlib", "printed")

_NUMBER = (int, float, type(None))
_KEYS: dict[str, Any] = {
    "name": str,
    "absolute": _NUMBER,
    "relative": _NUMBER,
    "caseless": bool,
    "program": str,
    "language": str,
    "protocol": str,
}


def read_checker(value: Any) -> Checker:
    """Read the checker of a row.

    Raises:
      ValueError: A name or a key is unknown, or the checker does not accept a value.
    """
    data = {"name": value} if isinstance(value, str) else value
    fields = read_fields(data, _KEYS, required=("name",))
    name = fields.pop("name")
    if name == "program":
        return _read_program(fields)
    if name not in CHECKERS:
        raise ValueError(
            f"unknown checker {name!r}; allowed: {', '.join(CHECKERS)}, and program as an object"
        )
    takes = {"name", "caseless", "absolute", "relative"}
    if name == "exact":
        takes = {"name"}
    elif name == "unordered":
        takes = {"name", "caseless"}
    _refuse_others(name, fields, takes)
    checker = CHECKERS[name]
    chosen = {key: getattr(checker, key) for key in ("absolute", "relative", "caseless")} | fields
    for key in ("absolute", "relative"):
        if chosen[key] is not None and not 0 <= chosen[key] < float("inf"):
            raise ValueError(f"{key!r} of a checker must be at least 0, not {chosen[key]!r}")
    return Checker(name, **chosen)


def write_checker(checker: Checker) -> dict[str, Any]:
    """Write a checker for `read_checker`: its name, and the settings that are not its defaults."""
    default = CHECKERS.get(checker.name, Checker("program"))
    data, usual = to_json(checker), to_json(default)
    return {key: value for key, value in data.items() if key == "name" or value != usual[key]}


def _read_program(fields: Mapping[str, Any]) -> Checker:
    _refuse_others("program", fields, {"program", "language", "protocol"})
    if not fields.get("program", "").strip():
        raise ValueError("the checker 'program' needs its source as 'program'")
    protocol = fields.get("protocol", "testlib")
    if protocol not in PROTOCOLS:
        raise ValueError(f"'protocol' must be {' or '.join(PROTOCOLS)}, not {protocol!r}")
    language = get_language(fields, tuple(Language))
    return Checker("program", program=fields["program"], language=language, protocol=protocol)


def _refuse_others(name: str, fields: Mapping[str, Any], takes: set[str]) -> None:
    if odd := [key for key in fields if key not in takes]:
        raise ValueError(f"the checker {name!r} takes no {odd[0]!r}")
