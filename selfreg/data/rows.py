"""Rows of public data sets as problems.

A row is recognized by its keys; SHAPES at the end is the whole table. No program of a row is run.
"""

import ast
import json
import logging
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from selfreg.data.json_values import get_language, get_value
from selfreg.data.problem_json import problem_from_json
from selfreg.records import Checker, Language, Problem, StdioCase, Tests

Row = Mapping[str, Any]

# What the APPS harness imports before a call-based answer, numpy aside: starters annotate with List
# and reference solutions lean on the rest.
_APPS_SETUP = """\
import bisect, collections, functools, heapq, itertools, math, operator, random, re, string
from collections import Counter, OrderedDict, defaultdict, deque
from functools import lru_cache, reduce
from heapq import heapify, heappop, heappush
from itertools import accumulate, combinations, permutations, product
from math import ceil, floor, gcd, sqrt
from typing import Any, Dict, List, Optional, Set, Tuple
"""

# APPS stores tuples as lists, and some single results inside a list of one.
_APPS_HELPER = """\
def _selfreg_plain(value):
    if isinstance(value, (list, tuple)):
        return [_selfreg_plain(item) for item in value]
    return value
"""

# APPS' own: np.allclose, by line. CodeContests' own: words, lower case, absolute.
_APPS_CHECKER = Checker("lines", absolute=1e-5, relative=1e-5)
_CONTESTS_CHECKER = Checker("floats", absolute=1e-5, relative=0.0, caseless=True)

# The reference of MBPP/123 takes 2 to 6 s, by machine: at 3 s a right program could fail.
_MBPP_TIME_LIMITS_S = {123: 15.0}


def load_rows(rows: Iterable[Row], source: str, shapes: Sequence[str] = ()) -> tuple[Problem, ...]:
    """Turn rows into problems, in their order.

    A row's own `time_limit` (seconds, or {"seconds", "nanos"}) is kept. Rows that a data set
    publishes without tests are left out, with a warning that counts them.

    Args:
      rows: JSON objects of any of the SHAPES, also mixed.
      source: Where they come from, for error messages.
      shapes: Names of the shapes to accept; all of SHAPES when empty.

    Raises:
      ValueError: A row that fits no shape, has a bad value, or repeats an id. The message names the
        source, the row (from 1), the key and what is allowed.
    """
    problems: dict[str, Problem] = {}
    untested = 0
    for number, row in enumerate(rows, 1):
        try:
            problem = _convert(row, f"{source}/{number}", shapes or tuple(SHAPES))
            if problem and problem.id in problems:
                raise ValueError(f"the id {problem.id!r} is that of an earlier row")
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{source}, row {number}: {error}") from error
        if problem:
            problems[problem.id] = problem
        else:
            untested += 1
    if untested:
        logging.getLogger(__name__).warning("%s: left out %d rows without tests", source, untested)
    return tuple(problems.values())


def _convert(row: Row, name: str, shapes: Sequence[str]) -> Problem | None:
    if not isinstance(row, Mapping):
        raise ValueError(f"a row must be a JSON object, not {row!r:.60}")
    shape = next((SHAPES[s] for s in shapes if all(key in row for key in SHAPES[s].keys)), None)
    if shape is None:
        known = "; ".join(f"{s} has {', '.join(SHAPES[s].keys)}" for s in shapes)
        raise ValueError(f"the keys {', '.join(row)} fit no known row: {known}")
    problem = shape.convert(row, name)
    limit = _time_limit_s(row)
    return replace(problem, time_limit_s=limit) if problem and limit else problem


# --- One function a shape -------------------------------------------------------------------------


def _from_own(row: Row, _: str) -> Problem:
    problem = problem_from_json(row)
    name, sources = problem.entry_point, (problem.starter, problem.solution or "")
    if problem.language is Language.CPP and problem.tests.code:
        if not name:
            raise ValueError("'entry_point' must name the function that the C++ tests call")
        if not any(re.search(rf"\b{re.escape(name)}\s*\(", source) for source in sources):
            raise ValueError(
                f"'starter' or 'solution' must begin to define {name!r}: its declaration says what "
                "its arguments and its result are"
            )
    return problem


def _from_humaneval(row: Row, _: str) -> Problem:
    """HumanEval, and HumanEval-XL: the same with the spec in other natural languages."""
    prompt, entry_point = get_value(row, "prompt"), get_value(row, "entry_point")
    name, natural_language = get_value(row, "task_id"), row.get("natural_language", "")
    return Problem(
        id=f"{name}/{natural_language}" if natural_language else name,
        spec=_docstring(prompt, entry_point),
        tests=Tests(code=f"{get_value(row, 'test').strip()}\n\ncheck({entry_point})\n"),
        language=get_language(row, allowed=(Language.PYTHON,)),
        entry_point=entry_point,
        starter=prompt,
        solution=prompt + get_value(row, "canonical_solution"),
        category=natural_language,
    )


def _from_humaneval_x(row: Row, _: str) -> Problem:
    """HumanEval-X in C++: the test is a main function."""
    prompt, declaration = get_value(row, "prompt"), get_value(row, "declaration")
    # The last function that the prompt begins to define; declarations may end within its body.
    signatures = re.findall(r"^[A-Za-z_][^\n;(){}]*?(\w+)\s*\([^()]*\)\s*\{", prompt, re.MULTILINE)
    comments = re.findall(r"(?s:/\*(.*?)\*/)|//(.*)", prompt)
    if not signatures:
        raise ValueError("'prompt' must end with the signature of a C++ function and '{'")
    if not comments:
        raise ValueError("'prompt' must say in a comment what is asked")
    # The reference leans on includes that the declaration has and the prompt has not.
    includes = re.findall(r"^#include.*\n|^using namespace std;\n", declaration, re.MULTILINE)
    return Problem(
        id=get_value(row, "task_id"),
        spec="".join(comments[-1]).strip(),
        tests=Tests(setup="".join(includes), code=get_value(row, "test")),
        language=Language.CPP,
        entry_point=signatures[-1],
        starter=prompt,
        solution=prompt + get_value(row, "canonical_solution"),
    )


def _from_mbpp(row: Row, _: str) -> Problem:
    """MBPP in both forms. Its texts do not name the function: one assert is shown, as is usual."""
    number, asserts = get_value(row, "task_id", int), _strings(get_value(row, "test_list", list))
    solution = _unix(get_value(row, "code"))
    entry_point = _entry_point(solution, asserts)
    # Some set-ups build objects of a class that the answer defines: they must run after it.
    setup = [*_strings(row.get("test_imports") or ()), _unix(row.get("test_setup_code") or "")]
    problem = Problem(
        id=f"MBPP/{number}",
        spec=f"{get_value(row, 'text' if 'text' in row else 'prompt').strip()}\n"
        f"Your code should pass this test:\n{asserts[0]}",
        tests=Tests(code="".join(f"{line}\n" for line in (*setup, *asserts) if line)),
        entry_point=entry_point,
        solution=solution,
    )
    limit = _MBPP_TIME_LIMITS_S.get(number)
    return replace(problem, time_limit_s=limit) if limit else problem


def _from_apps(row: Row, name: str) -> Problem | None:
    """APPS: whole programs, or with `fn_name` a function or a method of class Solution."""
    try:
        cases = _json(row, "input_output", Mapping)
    except OverflowError:
        return None  # a few rows test numbers of more digits than Python reads by default
    if not cases:
        return None
    inputs, outputs = get_value(cases, "inputs", list), get_value(cases, "outputs", list)
    if not inputs:
        return None
    function, starter = cases.get("fn_name"), row.get("starter_code") or ""
    if function:
        target = f"Solution().{function}" if "class Solution" in starter else function
        tests = Tests(setup=_APPS_SETUP, code=_call_tests(target, inputs, outputs))
    else:
        stdio = _stdio(map(_lines, inputs), map(_lines, outputs))
        tests = Tests(stdio=stdio, checker=_APPS_CHECKER)
    solutions = _json(row, "solutions", list) or [None]
    return Problem(
        id=f"APPS/{row['problem_id']}" if "problem_id" in row else name,
        spec=get_value(row, "question").strip(),
        tests=tests,
        entry_point=function,
        starter=starter,
        solution=solutions[0],
        category=row.get("difficulty") or "",
    )


def _from_code_contests(row: Row, name: str) -> Problem | None:
    """CodeContests as its authors publish it; tests of every kind count."""
    kinds = [row.get(f"{kind}_tests") or {} for kind in ("public", "private", "generated")]
    inputs = [text for kind in kinds for text in kind.get("input", ())]
    outputs = [text for kind in kinds for text in kind.get("output", ())]
    if not inputs:
        return None
    solutions = row.get("solutions") or {}
    pairs = zip(solutions.get("language", ()), solutions.get("solution", ()), strict=False)
    return Problem(
        id=row.get("name") or name,
        spec=get_value(row, "description").strip(),
        tests=Tests(stdio=_stdio(inputs, outputs), checker=_CONTESTS_CHECKER),
        solution=next((text for language, text in pairs if language == 3), None),  # 3: Python 3
    )


def _from_sandbox_fusion(row: Row, name: str) -> Problem:
    """The stdin/stdout sets of SandboxFusion, CodeContests among them."""
    cases = _json(row, "test", list)
    if not cases:
        raise ValueError("'test' must list at least one {'input': {'stdin'}, 'output': {'stdout'}}")
    inputs = [get_value(get_value(case, "input", Mapping), "stdin") for case in cases]
    outputs = [get_value(get_value(case, "output", Mapping), "stdout") for case in cases]
    labels = _json(row, "labels", Mapping) or {}
    return Problem(
        id=labels.get("name") or name,
        spec=get_value(row, "content").strip(),
        tests=Tests(stdio=_stdio(inputs, outputs)),
        category=str(labels.get("difficulty", "")),
    )


# --- Parts of a row -------------------------------------------------------------------------------


def _docstring(prompt: str, entry_point: str) -> str:
    """The docstring of the function that a HumanEval prompt ends with."""
    for node in _parse(prompt, "prompt").body:
        if isinstance(node, ast.FunctionDef) and node.name == entry_point:
            return (ast.get_docstring(node, clean=False) or "").strip()
    raise ValueError(f"'prompt' must define {entry_point!r}, the 'entry_point'")


def _entry_point(solution: str, asserts: Sequence[str]) -> str:
    """The function of the solution that the asserts call first."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    body = _parse(solution, "code").body
    defined = {node.name for node in body if isinstance(node, kinds)}
    for node in ast.walk(_parse("\n".join(asserts), "test_list")):
        name = getattr(node.func, "id", "") if isinstance(node, ast.Call) else ""
        if name in defined:
            return name
    raise ValueError("'test_list' must call a function that 'code' defines")


def _parse(source: str, key: str) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # many rows write "\d" for r"\d"
            return ast.parse(source)
    except SyntaxError as error:
        raise ValueError(f"{key!r} must be Python: {error}") from error


def _call_tests(target: str, inputs: list[Any], outputs: list[Any]) -> str:
    """Asserts that accept what the APPS harness accepts."""
    lines = []
    for args, output in _paired(inputs, outputs):
        if not isinstance(args, list):
            raise ValueError(f"'inputs' must be lists of arguments, not {args!r:.60}")
        call = f"_selfreg_plain({target}({', '.join(map(repr, args))}))"
        single = isinstance(output, list) and len(output) == 1
        right = f"in ({output!r}, {output[0]!r})" if single else f"== {output!r}"
        lines.append(f"assert {call} {right}\n")
    return _APPS_HELPER + "".join(lines)


def _stdio(inputs: Iterable[str], outputs: Iterable[str]) -> tuple[StdioCase, ...]:
    return tuple(StdioCase(*pair) for pair in _paired(_strings(inputs), _strings(outputs)))


def _strings(values: Iterable[Any]) -> list[str]:
    strings = list(values)
    if bad := [value for value in strings if not isinstance(value, str)]:
        raise ValueError(f"expected a list of strings, but it holds {bad[0]!r:.60}")
    return strings


def _paired(inputs: list[Any], outputs: list[Any]) -> Iterable[tuple[Any, Any]]:
    if len(inputs) != len(outputs):
        raise ValueError(f"there are {len(inputs)} inputs, but {len(outputs)} outputs")
    return zip(inputs, outputs, strict=True)


def _lines(text: Any) -> str:
    """The text of a stdin or stdout, which APPS stores as one string or as a list of lines."""
    return "\n".join(map(str, text)) if isinstance(text, list) else str(text)


def _unix(text: str) -> str:
    return text.replace("\r\n", "\n")


def _json(row: Row, key: str, kind: Any) -> Any:
    """A value that the row holds as JSON text, or None where it is absent or empty.

    Raises:
      OverflowError: An integer of more digits than Python reads by default.
    """
    if not row.get(key):
        return None
    try:
        value = json.loads(get_value(row, key))
    except json.JSONDecodeError as error:
        raise ValueError(f"{key!r} must be JSON: {error}") from error
    except ValueError as error:
        raise OverflowError(f"{key!r}: {error}") from error
    return get_value({key: value}, key, kind)


def _time_limit_s(row: Row) -> float:
    """The time limit that the row states, or 0."""
    limit = row.get("time_limit") or 0
    if isinstance(limit, Mapping):
        limit = (limit.get("seconds") or 0) + (limit.get("nanos") or 0) * 1e-9
    if not isinstance(limit, (int, float)) or limit < 0:
        raise ValueError(f"'time_limit' must be a number of seconds, not {limit!r:.60}")
    return float(limit)


class Shape(NamedTuple):
    """A kind of row: the keys that tell it, and what makes a problem of it (None: no tests)."""

    keys: tuple[str, ...]
    convert: Callable[[Row, str], Problem | None]


# The first shape whose keys are all in a row is the row's.
SHAPES = {
    "selfreg": Shape(("id", "spec", "tests"), _from_own),
    "HumanEval-X": Shape(
        ("prompt", "declaration", "canonical_solution", "test"), _from_humaneval_x
    ),
    "HumanEval": Shape(("prompt", "entry_point", "canonical_solution", "test"), _from_humaneval),
    "MBPP": Shape(("task_id", "code", "test_list"), _from_mbpp),
    "APPS": Shape(("question", "input_output"), _from_apps),
    "CodeContests": Shape(("description", "public_tests"), _from_code_contests),
    "SandboxFusion": Shape(("content", "test"), _from_sandbox_fusion),
}
