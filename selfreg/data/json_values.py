"""Checked look-ups in JSON objects. Errors name the key and the values that it may hold."""

from collections.abc import Iterable, Mapping
from typing import Any

from selfreg.run.records import Language

_TYPE_NAMES: dict[Any, str] = {
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "true or false",
    list: "a list",
    Mapping: "an object",
    type(None): "null",
}


def get_value(row: Mapping[str, Any], key: str, kind: Any = str) -> Any:
    """Return `row[key]` after checking its type.

    Args:
      row: A JSON object.
      key: The key to look up.
      kind: The expected type, or a tuple of types. A boolean never counts as a number.

    Raises:
      ValueError: The key is absent or the value is of another type.
    """
    kinds = kind if isinstance(kind, tuple) else (kind,)
    wanted = " or ".join(_TYPE_NAMES[k] for k in kinds)
    if key not in row:
        raise ValueError(f"the key {key!r} is missing; it holds {wanted}")
    value = row[key]
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise ValueError(f"{key!r} must be {wanted}, not {value!r:.60}")
    return value


def get_language(row: Mapping[str, Any], allowed: tuple[Language, ...]) -> Language:
    """Return the row's `language`; Python if the row names none.

    Raises:
      ValueError: The language is not allowed.
    """
    name = row.get("language", Language.PYTHON.value)
    if name not in allowed:
        raise ValueError(f"'language' must be {' or '.join(allowed)}, not {name!r}")
    return Language(name)


def read_fields(
    data: Any, kinds: Mapping[str, Any], required: Iterable[str] = ()
) -> dict[str, Any]:
    """Return the checked values of a JSON object that may hold only the keys of `kinds`.

    A key that holds null counts as absent.

    Raises:
      ValueError: A key is unknown or missing, or a value has another type.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"expected an object with the keys {', '.join(kinds)}, not {data!r:.60}")
    # Parquet stores null where a row lacks a key that another row has.
    data = {key: value for key, value in data.items() if value is not None or key in required}
    # An unknown key is probably misspelt. Ignoring it would silently apply the default.
    if unknown := [key for key in data if key not in kinds]:
        raise ValueError(f"unknown key {unknown[0]!r}; allowed: {', '.join(kinds)}")
    return {
        key: get_value(data, key, kinds[key]) for key in kinds if key in data or key in required
    }
