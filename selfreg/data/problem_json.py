"""Problems as JSON data: selfreg's own rows, and checked look-ups in anybody's rows."""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from selfreg.run.records import Language, Problem, StdioCase, Tests, to_json

SPLITS = ("", "train", "main", "hard", "ood", "cpp")

_NUMBER = (int, float)
_OPTIONAL = (str, type(None))

_PROBLEM_KEYS: dict[str, Any] = {
    "id": str,
    "spec": str,
    "tests": Mapping,
    "language": str,
    "entry_point": _OPTIONAL,
    "starter": str,
    "solution": _OPTIONAL,
    "time_limit_s": _NUMBER,
    "memory_limit_mb": int,
    "split": str,
    "category": str,
}
_TESTS_KEYS: dict[str, Any] = {"setup": str, "code": str, "stdio": list, "tolerance": _NUMBER}
_CASE_KEYS: dict[str, Any] = {"stdin": str, "stdout": str}


def problem_to_json(problem: Problem) -> dict[str, Any]:
    """A problem as JSON data, defaults left out; `problem_from_json` gives the same back."""
    defaults = {field.name: to_json(field.default) for field in fields(Problem)}
    data: dict[str, Any] = to_json(problem)
    short = {key: value for key, value in data.items() if value != defaults[key]}
    return short | {"tests": {key: value for key, value in data["tests"].items() if value}}


def problem_from_json(data: Mapping[str, Any]) -> Problem:
    """Read what `problem_to_json` wrote, or what a person wrote in the same form.

    Raises:
      ValueError: An unknown or missing key, or a value that a problem cannot have.
    """
    values = _fields(data, _PROBLEM_KEYS, required=("id", "spec", "tests"))
    tests = _fields(values["tests"], _TESTS_KEYS)
    cases = [_fields(case, _CASE_KEYS, required=_CASE_KEYS) for case in tests.get("stdio", ())]
    if values.get("split", "") not in SPLITS:
        raise ValueError(f"'split' must be one of {', '.join(SPLITS[1:])}, not {data['split']!r}")
    for key in ("time_limit_s", "memory_limit_mb"):
        if key in values and not values[key] > 0:
            raise ValueError(f"{key!r} must be positive, not {values[key]!r}")
    if not tests.get("tolerance", 0) >= 0:
        raise ValueError(f"'tolerance' must be at least 0, not {tests['tolerance']!r}")
    values["language"] = get_language(data, tuple(Language))
    values["tests"] = Tests(**tests | {"stdio": tuple(StdioCase(**case) for case in cases)})
    return Problem(**values)


def get_value(row: Mapping[str, Any], key: str, kind: Any = str) -> Any:
    """`row[key]`, checked.

    Args:
      row: A JSON object.
      key: What to look up.
      kind: The type wanted, or a tuple of types. A boolean is never a number.

    Raises:
      ValueError: The key is absent or the value is of another type.
    """
    kinds = kind if isinstance(kind, tuple) else (kind,)
    wanted = " or ".join(_TYPE_NAMES[k] for k in kinds)
    if key not in row:
        raise ValueError(f"the key {key!r} is missing; it holds {wanted}")
    value = row[key]
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise ValueError(f"{key!r} must be {wanted}, not {value!r:.60}")
    return value


_TYPE_NAMES: dict[Any, str] = {
    str: "a string",
    int: "an integer",
    float: "a number",
    list: "a list",
    Mapping: "an object",
    type(None): "null",
}


def get_language(row: Mapping[str, Any], allowed: tuple[Language, ...]) -> Language:
    """The row's `language`, Python where it names none.

    Raises:
      ValueError: A language that is not allowed.
    """
    name = row.get("language", Language.PYTHON.value)
    if name not in allowed:
        raise ValueError(f"'language' must be {' or '.join(allowed)}, not {name!r}")
    return Language(name)


def _fields(data: Any, kinds: Mapping[str, Any], required: Iterable[str] = ()) -> dict[str, Any]:
    """The checked values of a JSON object that may hold only the keys of `kinds`."""
    if not isinstance(data, Mapping):
        raise ValueError(f"expected an object with the keys {', '.join(kinds)}, not {data!r:.60}")
    # An unknown key is more likely a misspelt one than a remark: a silent default would hide it.
    if unknown := [key for key in data if key not in kinds]:
        raise ValueError(f"unknown key {unknown[0]!r}; allowed: {', '.join(kinds)}")
    return {
        key: get_value(data, key, kinds[key]) for key in kinds if key in data or key in required
    }
