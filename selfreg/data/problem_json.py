"""Read and write problems as JSON data, selfreg's own rows. docs/data.md describes every key."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from selfreg.data.checker_json import read_checker, write_checker
from selfreg.data.json_values import get_language, read_fields
from selfreg.run.records import Checker, Language, Problem, StdioCase, Tests, to_json

CPP_STANDARDS = ("", *(f"{d}++{y}" for d in ("c", "gnu") for y in (11, 14, 17, 20, 23)))
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
    "evaluation_only": bool,
    "cpp_standard": str,
}
_TESTS_KEYS: dict[str, Any] = {
    "setup": str,
    "code": str,
    "stdio": list,
    "checker": (str, Mapping),
    "tolerance": _NUMBER,  # from before rows could name a checker
}
_CASE_KEYS: dict[str, Any] = {"stdin": str, "stdout": str, "alternatives": list}


def problem_to_json(problem: Problem) -> dict[str, Any]:
    """Write a problem as JSON data without defaults; `problem_from_json` reads it back."""
    data = _short(problem)
    tests = _short(problem.tests)
    if tests.get("checker"):
        tests["checker"] = write_checker(problem.tests.checker)
    if problem.tests.stdio:
        tests["stdio"] = [_short(case) for case in problem.tests.stdio]
    return data | {"tests": tests}


def _short(record: Any) -> dict[str, Any]:
    """Return the fields of a record that differ from their defaults."""
    defaults = {field.name: to_json(field.default) for field in fields(record)}
    data: dict[str, Any] = to_json(record)
    return {key: value for key, value in data.items() if value != defaults[key] and value != []}


def problem_from_json(data: Mapping[str, Any]) -> Problem:
    """Read a problem in the form that `problem_to_json` writes.

    Raises:
      ValueError: A key is unknown or missing, or a value is not allowed.
    """
    values = read_fields(data, _PROBLEM_KEYS, required=("id", "spec", "tests"))
    if values.get("split", "") not in SPLITS:
        raise ValueError(f"'split' must be one of {', '.join(SPLITS[1:])}, not {data['split']!r}")
    for key in ("time_limit_s", "memory_limit_mb"):
        if key in values and not 0 < values[key] < float("inf"):
            raise ValueError(f"{key!r} must be positive, not {values[key]!r}")
    values["language"] = get_language(data, tuple(Language))
    if values.get("cpp_standard", "") not in CPP_STANDARDS:
        known = ", ".join(CPP_STANDARDS[1:])
        raise ValueError(f"'cpp_standard' must be one of {known}, not {data['cpp_standard']!r}")
    values["tests"] = _read_tests(values["tests"])
    return Problem(**values)


def _read_tests(data: Mapping[str, Any]) -> Tests:
    tests = read_fields(data, _TESTS_KEYS)
    checker = read_checker(tests.pop("checker", "lines"))
    tolerance = tests.pop("tolerance", None)
    if tolerance is not None:
        if not 0 <= tolerance < float("inf"):
            raise ValueError(f"'tolerance' must be at least 0, not {tolerance!r}")
        if "checker" in data:
            raise ValueError("give 'checker' or the older 'tolerance', and not both")
        if tolerance:
            checker = Checker("lines", absolute=tolerance, relative=tolerance)
    cases = tuple(_read_case(case) for case in tests.get("stdio", ()))
    return Tests(**tests | {"stdio": cases, "checker": checker})


def _read_case(data: Any) -> StdioCase:
    case = read_fields(data, _CASE_KEYS, required=("stdin", "stdout"))
    alternatives = case.get("alternatives", [])
    if bad := [other for other in alternatives if not isinstance(other, str)]:
        raise ValueError(f"'alternatives' must be strings, not {bad[0]!r:.60}")
    return StdioCase(case["stdin"], case["stdout"], tuple(alternatives))
