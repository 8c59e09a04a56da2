"""Read test cases from every encoding that public data sets use into one form.

    {"inputs": [...], "outputs": [...], "fn_name": ...}                    APPS, TACO, verl, rStar
    [{"input": ..., "output": ..., "type" or "testtype": ..., "fn_name": ...}, ...]   the others

A row may hold either form as plain data, as JSON, as a Python literal (PrimeIntellect), or as the
base64 text of a zlib-compressed pickle of JSON (LiveCodeBench).
"""

import ast
import base64
import binascii
import io
import json
import pickle
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from selfreg.run.records import StdioCase

# Far above the size of any data set's tests. It keeps a row of a few kilobytes from unzipping to
# more than the memory holds.
_MOST_UNZIPPED = 1 << 30
_STDIN_TYPES = ("stdin", "stdin_stdout", "stdio")
_CALL_TYPES = ("functional", "function_call", "function")
_CASE_KEYS = {"input", "output", "type", "testtype", "fn_name", "metadata"}
_TABLE_KEYS = {"inputs", "outputs", "fn_name", "metadata"}
_FENCE = re.compile(r"\A\s*```[\w+]*[ \t]*\n(.*?)\n?```\s*\Z", re.DOTALL)


class NoTests(Exception):
    """Raised for a row that a data set publishes without usable tests; the row is left out."""


class Call(NamedTuple):
    """One call of a function: its arguments and the expected result."""

    arguments: list[Any]
    result: Any


class Cases(NamedTuple):
    """The test cases of a row: stdin cases of a whole program, or calls of the function `name`."""

    stdio: tuple[StdioCase, ...] = ()
    calls: tuple[Call, ...] = ()
    name: str = ""


def read_cases(value: Any, key: str, name: str = "", *, default: str = "stdin") -> Cases:
    """Read the test cases that a row holds under a key.

    Args:
      value: The row's value, in any of the encodings above.
      key: The key, for error messages.
      name: The function to call, if another part of the row names it.
      default: The type of a case that states no type.

    Raises:
      NoTests: There are no cases, or they hold integers of more digits than Python reads.
      ValueError: The value does not hold valid cases.
    """
    data = decode(value, key)
    if isinstance(data, Mapping):
        cases = _read_table(data, key, name)
    elif isinstance(data, list):
        cases = _read_list(data, key, name, default)
    else:
        raise ValueError(f"{key!r} must hold test cases, not {data!r:.60}")
    if not (cases.stdio or cases.calls):
        raise NoTests("no test cases")
    return cases


def decode(value: Any, key: str) -> Any:
    """Decode a value that is plain data, JSON, a Python literal or a zipped pickle.

    Raises:
      NoTests: The value is empty, or has an integer of more digits than Python reads by default.
      ValueError: The value is in none of these encodings.
    """
    if not value:
        raise NoTests("no test cases")
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        problem = error
    except ValueError as error:
        raise NoTests("numbers of more digits than Python reads") from error
    if re.fullmatch(r"\s*[\[({].*", value, re.DOTALL):
        try:
            return ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise ValueError(f"{key!r} must be JSON: {problem}") from problem
    unpacked = _unpack(value, key)
    if unpacked is None:
        raise ValueError(f"{key!r} must be JSON: {problem}") from problem
    return decode(unpacked, key)


class _StringsOnly(pickle.Unpickler):
    """An unpickler of plain data. It refuses classes and functions, which could run any code."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def _unpack(text: str, key: str) -> Any:
    """Decode LiveCodeBench's encoding; return None for a text in another encoding.

    Raises:
      ValueError: The pickle is broken, or holds more than plain data.
    """
    try:
        packed = base64.b64decode(text, validate=True)
        stream = zlib.decompressobj()
        data = stream.decompress(packed, _MOST_UNZIPPED)
    except (binascii.Error, zlib.error):
        return None
    if not stream.eof:
        raise ValueError(f"{key!r} is cut, or unzips to more than {_MOST_UNZIPPED >> 20} MiB")
    try:
        return _StringsOnly(io.BytesIO(data)).load()
    except Exception as error:  # a broken pickle raises all kinds
        raise ValueError(f"{key!r} holds a pickle that is not read: {error}") from error


def read_code(text: str | None) -> str | None:
    """Return a solution without its Markdown fence, if it has one; None for an empty solution."""
    fenced = _FENCE.match(text or "")
    return f"{fenced[1]}\n" if fenced else text or None


def join_cases(parts: Sequence[Cases]) -> Cases:
    """Join the cases from several keys of one row."""
    name = next((part.name for part in parts if part.name), "")
    return Cases(
        tuple(case for part in parts for case in part.stdio),
        tuple(call for part in parts for call in part.calls),
        name,
    )


def stdio_cases(inputs: Sequence[Any], outputs: Sequence[Any]) -> tuple[StdioCase, ...]:
    """Pair inputs with outputs as stdin cases. Each is a text, a number or a list of lines."""
    return tuple(StdioCase(_text(given), _text(right)) for given, right in _pairs(inputs, outputs))


def _pairs(inputs: Any, outputs: Any) -> list[tuple[Any, Any]]:
    for key, values in (("inputs", inputs), ("outputs", outputs)):
        if not isinstance(values, (list, tuple)):
            raise ValueError(f"{key!r} must be a list, not {values!r:.60}")
    if len(inputs) != len(outputs):
        raise ValueError(f"there are {len(inputs)} inputs, but {len(outputs)} outputs")
    return list(zip(inputs, outputs, strict=True))


def _read_table(data: Mapping[str, Any], key: str, name: str) -> Cases:
    _refuse_unknown(data, key, _TABLE_KEYS)
    if missing := [part for part in ("inputs", "outputs") if part not in data]:
        raise ValueError(f"the key {missing[0]!r} is missing in {key!r}")
    inputs, outputs = data["inputs"], data["outputs"]
    name = name or data.get("fn_name") or _name_in(data.get("metadata"))
    pairs = _pairs(inputs, outputs)
    if not name:
        return Cases(stdio_cases(inputs, outputs))
    return Cases(calls=tuple(_call(given, right) for given, right in pairs), name=name)


def _read_list(data: list[Any], key: str, name: str, default: str) -> Cases:
    stdio: list[StdioCase] = []
    calls: list[Call] = []
    for case in data:
        if not isinstance(case, Mapping):
            raise ValueError(f"{key!r} must list objects, not {case!r:.60}")
        _refuse_unknown(case, key, _CASE_KEYS)
        if missing := [part for part in ("input", "output") if part not in case]:
            raise ValueError(f"the key {missing[0]!r} is missing in a case of {key!r}")
        kind = case.get("testtype") or case.get("type") or default
        function = case.get("fn_name") or name or _name_in(case.get("metadata"))
        if kind in _CALL_TYPES or (kind == default == "call"):
            if not function:
                raise ValueError(f"a case of {key!r} calls a function that the row does not name")
            if calls and function != name:
                raise ValueError(f"the cases of {key!r} call both {name!r} and {function!r}")
            name = function
            calls.append(_call(case["input"], case["output"]))
        elif kind in _STDIN_TYPES:
            stdio.append(StdioCase(_text(case["input"]), _text(case["output"])))
        else:
            known = ", ".join((*_STDIN_TYPES, *_CALL_TYPES))
            raise ValueError(f"a case of {key!r} is of the type {kind!r}; known are {known}")
    if stdio and calls:
        raise ValueError(f"{key!r} has cases of a whole program and of a function at once")
    return Cases(tuple(stdio), tuple(calls), name if calls else "")


def _refuse_unknown(data: Mapping[str, Any], key: str, known: set[str]) -> None:
    """Refuse unknown keys of a case, because a key that is not read could change the verdict."""
    if unknown := [part for part, value in data.items() if part not in known and value]:
        raise ValueError(
            f"a case of {key!r} has the unknown part {unknown[0]!r}; known are "
            f"{', '.join(sorted(known))}"
        )


def _name_in(metadata: Any) -> str:
    return (metadata.get("func_name") or "") if isinstance(metadata, Mapping) else ""


def _text(value: Any) -> str:
    """Return stdin or stdout as one text; APPS stores it as a string or as a list of lines."""
    if isinstance(value, list):
        return "\n".join(map(str, value))
    if isinstance(value, (str, int, float)):
        return str(value)
    raise ValueError(f"an input or output must be text, but it is {value!r:.60}")


def _call(given: Any, right: Any) -> Call:
    """Read a call from a list of arguments, or from a text with one JSON argument on each line."""
    if isinstance(given, str):
        return Call([_json(line) for line in given.split("\n") if line.strip()], _json(right))
    if not isinstance(given, list):
        raise ValueError(f"'inputs' must be lists of arguments, not {given!r:.60}")
    return Call([_int_keys(value) for value in given], right)


def _json(text: Any) -> Any:
    if not isinstance(text, str):
        return text
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        pass
    except ValueError as error:
        raise NoTests("numbers of more digits than Python reads") from error
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise ValueError(f"an argument or a result must be JSON, not {text!r:.60}") from None


def _int_keys(value: Any) -> Any:
    """Turn a dictionary's integer keys, which JSON stores as texts, back; APPS' harness does so."""
    if isinstance(value, dict) and value and all(re.fullmatch(r"-?\d{1,18}", key) for key in value):
        return {int(key): item for key, item in value.items()}
    return value
