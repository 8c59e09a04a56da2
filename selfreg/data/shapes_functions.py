"""Convert rows of data sets whose tests call a function or assert its results."""

import ast
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from selfreg.data.cases import NoTests, decode, read_code
from selfreg.data.json_values import get_language, get_value
from selfreg.data.problem_json import problem_from_json
from selfreg.data.testcode import (
    called_name,
    parse,
    pytest_tests,
    reference_tests,
    unittest_tests,
    without_numpy,
)
from selfreg.run.records import Language, Problem, Tests

Row = Mapping[str, Any]

# The reference of MBPP/123 takes 2 to 6 s, depending on the machine. At the usual 3 s, a right
# program could fail.
_MBPP_TIME_LIMITS_S = {123: 15.0}
# evalplus runs up to a thousand inputs for each problem, and gives each input its own limit.
_EVALPLUS_TIME_LIMIT_S = 10.0
_HUMANEVAL_X = {"CPP": Language.CPP, "Python": Language.PYTHON}


def from_own(row: Row, _: str) -> Problem:
    """Convert a row of selfreg's own format."""
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


def from_humaneval(row: Row, _: str) -> Problem:
    """Convert a row of HumanEval, evalplus/humanevalplus or HumanEval-XL (many human languages)."""
    prompt, entry_point = get_value(row, "prompt"), get_value(row, "entry_point")
    name, natural_language = get_value(row, "task_id"), row.get("natural_language", "")
    test = without_numpy(get_value(row, "test").strip())
    # evalplus' own file already ends its tests with the call of `check`.
    call = (
        ""
        if re.search(rf"^check\({re.escape(entry_point)}\)", test, re.MULTILINE)
        else (f"\n\ncheck({entry_point})\n")
    )
    problem = Problem(
        id=f"{name}/{natural_language}" if natural_language else name,
        spec=_docstring(prompt, entry_point),
        tests=Tests(code=test + call),
        language=get_language(row, allowed=(Language.PYTHON,)),
        entry_point=entry_point,
        starter=prompt,
        solution=prompt + get_value(row, "canonical_solution"),
        category=natural_language,
    )
    is_plus = test != get_value(row, "test").strip()
    return replace(problem, time_limit_s=_EVALPLUS_TIME_LIMIT_S) if is_plus else problem


def from_evalplus(row: Row, _: str) -> Problem:
    """Convert a row of HumanEvalPlus.jsonl or HumanEvalPlus-Mini.jsonl: inputs and a reference."""
    prompt, entry_point = get_value(row, "prompt"), get_value(row, "entry_point")
    name, solution = get_value(row, "task_id"), get_value(row, "canonical_solution")
    if not name.startswith("HumanEval"):
        raise ValueError(
            f"{name!r}: MbppPlus.jsonl has lost the types of its inputs (tuples, sets); read the "
            "rows of evalplus/mbppplus, whose 'test' holds the same tests"
        )
    inputs = [*get_value(row, "base_input", list), *get_value(row, "plus_input", list)]
    if not inputs:
        raise NoTests("no test cases")
    if bad := [given for given in inputs if not isinstance(given, list)]:
        raise ValueError(f"an input must be a list of arguments, not {bad[0]!r:.60}")
    tolerance = row.get("atol") or 0
    return Problem(
        id=name,
        spec=_docstring(prompt, entry_point),
        tests=Tests(code=reference_tests(entry_point, prompt + solution, inputs, tolerance)),
        entry_point=entry_point,
        starter=prompt,
        solution=prompt + solution,
        time_limit_s=_EVALPLUS_TIME_LIMIT_S,
    )


def from_humaneval_x(row: Row, _: str) -> Problem:
    """Convert a row of HumanEval-X in C++, whose test is a main function, or in Python."""
    name, prompt = get_value(row, "task_id"), get_value(row, "prompt")
    language = _HUMANEVAL_X.get(name.partition("/")[0])
    if language is None:
        raise ValueError(
            f"'task_id' {name!r} is of a language that is not graded; "
            f"{' and '.join(_HUMANEVAL_X)} are"
        )
    if language is Language.PYTHON:
        functions = [n for n in parse(prompt, "prompt").body if isinstance(n, ast.FunctionDef)]
        if not functions:
            raise ValueError("'prompt' must end with the signature of a function")
        # The row names no entry point. Its tests already end with the call.
        entry_point = functions[-1].name
        return from_humaneval({**row, "entry_point": entry_point, "language": "python"}, "")
    comments = re.findall(r"(?s:/\*(.*?)\*/)|//(.*)", prompt)
    entry_point = _cpp_function(prompt)
    if not comments:
        raise ValueError("'prompt' must say in a comment what is asked")
    # The reference needs includes that the declaration has but the prompt lacks.
    return Problem(
        id=name,
        spec="".join(comments[-1]).strip(),
        tests=Tests(
            setup=_cpp_includes(get_value(row, "declaration")), code=get_value(row, "test")
        ),
        language=Language.CPP,
        entry_point=entry_point,
        starter=prompt,
        solution=prompt + get_value(row, "canonical_solution"),
    )


def from_multipl_e(row: Row, _: str) -> Problem:
    """Convert a row of MultiPL-E in C++. Its licence forbids training on it."""
    prompt, tests = get_value(row, "prompt"), get_value(row, "tests")
    if row.get("language") != "cpp":
        raise ValueError(f"MultiPL-E is graded in cpp, not in {row.get('language')!r}")
    comment = "".join(re.findall(r"^\s*//\s?(.*\n?)", prompt, re.MULTILINE)).strip()
    return Problem(
        id=f"MultiPL-E/{get_value(row, 'name')}",
        spec=comment,
        # MultiPL-E's completions stop before the brace that closes the function, so its tests begin
        # with that brace. Here the program already has it.
        tests=Tests(setup=_cpp_includes(prompt), code=re.sub(r"\A\s*\}\s*\n", "", tests)),
        language=Language.CPP,
        entry_point=_cpp_function(prompt),
        starter=prompt,
        evaluation_only=True,
    )


def from_mbpp(row: Row, _: str) -> Problem:
    """Convert a row of MBPP in either form, or of evalplus/mbppplus, whose `test` has more cases.

    MBPP's texts do not name the function, so the spec shows one assert, as is usual.
    """
    number, asserts = get_value(row, "task_id", int), strings(get_value(row, "test_list", list))
    solution = unix(get_value(row, "code"))
    kinds = (ast.FunctionDef, ast.ClassDef)
    defined = {node.name for node in parse(solution, "code").body if isinstance(node, kinds)}
    entry_point = called_name("\n".join(asserts), defined, "test_list")
    # Some set-ups build objects of a class that the answer defines, so they must run after it.
    setup = [*strings(row.get("test_imports") or ()), unix(row.get("test_setup_code") or "")]
    code = "".join(f"{line}\n" for line in (*setup, *asserts) if line)
    limit = _MBPP_TIME_LIMITS_S.get(number, 3.0)
    if row.get("test"):
        code += without_numpy(unix(get_value(row, "test")))
        limit = max(limit, _EVALPLUS_TIME_LIMIT_S)
    return Problem(
        id=f"MBPP/{number}",
        spec=f"{get_value(row, 'text' if 'text' in row else 'prompt').strip()}\n"
        f"Your code should pass this test:\n{asserts[0]}",
        tests=Tests(code=code),
        entry_point=entry_point,
        solution=solution,
        time_limit_s=limit,
    )


def from_leetcode(row: Row, name: str) -> Problem:
    """Convert a row of LeetCodeDataset: a method of class Solution; the prompt has helper types."""
    target, starter = get_value(row, "entry_point"), get_value(row, "starter_code")
    setup = get_value(row, "prompt")
    parse(setup, "prompt")
    return Problem(
        id=f"LeetCode/{row.get('task_id') or name}",
        spec=get_value(row, "problem_description").strip(),
        tests=Tests(setup=setup, code=f"{get_value(row, 'test').strip()}\n\ncheck({target})\n"),
        entry_point=target.rpartition(".")[2],
        starter=starter,
        solution=read_code(row.get("completion")),
        category=row.get("difficulty") or "",
    )


def from_acecode(row: Row, name: str) -> Problem:
    """Convert a row of AceCode. Only the asserts name its function, so the spec shows one."""
    asserts = strings(decode(row["test_cases"], "test_cases"))
    if not asserts:
        raise NoTests("no test cases")
    return Problem(
        id=f"AceCode/{row['id']}" if row.get("id") else name,
        spec=f"{get_value(row, 'question').strip()}\n"
        f"Your code should pass this test:\n{asserts[0]}",
        tests=Tests(code="".join(f"{line}\n" for line in asserts)),
        entry_point=called_name("\n".join(asserts), key="test_cases"),
    )


def from_kodcode(row: Row, name: str) -> Problem:
    """Convert a row of KodCode: pytest tests that import from the module `solution`."""
    code, wanted = pytest_tests(unix(get_value(row, "test_code" if "test_code" in row else "test")))
    solution = unix(get_value(row, "solution"))
    info = row.get("test_info") or []
    named = [part.get("function_name") for part in info if isinstance(part, Mapping)]
    functions = [n.name for n in parse(solution, "solution").body if isinstance(n, ast.FunctionDef)]
    choices = [n for n in (*named, *wanted, *functions[-1:]) if n]
    if not choices:
        raise ValueError("'test_code' must import the function that it tests from 'solution'")
    declared = [part.get("function_declaration") for part in info if isinstance(part, Mapping)]
    spec = get_value(row, "question").strip()
    if named and declared and f"{named[0]}" not in spec:
        spec += f"\nYour code should define:\n{declared[0]}"
    return Problem(
        id=f"KodCode/{row['question_id']}" if row.get("question_id") else name,
        spec=spec,
        tests=Tests(code=code),
        entry_point=choices[0],
        solution=solution,
        category=row.get("gpt_difficulty") or "",
    )


def from_bigcodebench(row: Row, _: str) -> Problem:
    """Convert a row of BigCodeBench: a unittest class.

    Validation refuses a row that needs a library which is not installed.
    """
    starter = get_value(row, "complete_prompt")
    entry_point = get_value(row, "entry_point")
    return Problem(
        id=get_value(row, "task_id"),
        spec=get_value(row, "instruct_prompt").strip(),
        tests=Tests(code=unittest_tests(get_value(row, "test"))),
        entry_point=entry_point,
        starter=starter,
        solution=starter + get_value(row, "canonical_solution"),
    )


def _docstring(prompt: str, entry_point: str) -> str:
    """Return the docstring of the function at the end of a HumanEval prompt."""
    for node in parse(prompt, "prompt").body:
        if isinstance(node, ast.FunctionDef) and node.name == entry_point:
            return (ast.get_docstring(node, clean=False) or "").strip()
    raise ValueError(f"'prompt' must define {entry_point!r}, the 'entry_point'")


def _cpp_function(prompt: str) -> str:
    """Return the name of the last C++ function whose definition begins in the prompt."""
    signatures = re.findall(r"^[A-Za-z_][^\n;(){}]*?(\w+)\s*\([^()]*\)\s*\{", prompt, re.MULTILINE)
    if not signatures:
        raise ValueError("'prompt' must end with the signature of a C++ function and '{'")
    return str(signatures[-1])


def _cpp_includes(source: str) -> str:
    found = re.findall(r"^#include.*\n|^using namespace std;\n", source, re.MULTILINE)
    return "".join(found)


def strings(values: Iterable[Any]) -> list[str]:
    """Return the values as a list of texts, after checking them.

    Raises:
      ValueError: A value is not a text.
    """
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ValueError(f"expected a list of strings, not {values!r:.60}")
    found = list(values)
    if bad := [value for value in found if not isinstance(value, str)]:
        raise ValueError(f"expected a list of strings, but it holds {bad[0]!r:.60}")
    return found


def unix(text: str) -> str:
    """Convert Windows line ends to Unix ones."""
    return text.replace("\r\n", "\n")
