"""Turn rows of public data sets into problems.

The columns of a row tell which data set it comes from; SHAPES lists all data sets. No program in a
row is run here. docs/data.md lists the formats.
"""

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from selfreg.data import shapes_functions as functions
from selfreg.data import shapes_programs as programs
from selfreg.data.cases import NoTests
from selfreg.data.limits import LEAST_PYTHON_MB, memory_limit_mb, time_limit_s
from selfreg.run.records import Language, Problem

Row = Mapping[str, Any]


class Shape(NamedTuple):
    """The columns of one data set's rows, and their conversion into problems.

    Attributes:
      keys: The columns by which a row is recognised.
      convert: Turns a row into a problem, or raises NoTests for a row to leave out.
      reads: Other columns with tests, which `convert` reads.
      ignores: Columns that look like tests but do not affect grading.
    """

    keys: tuple[str, ...]
    convert: Callable[[Row, str], Problem]
    reads: tuple[str, ...] = ()
    ignores: tuple[str, ...] = ()


def _refused(reason: str) -> Callable[[Row, str], Problem]:
    def refuse(row: Row, name: str) -> Problem:
        raise ValueError(reason)

    return refuse


# A row has the first shape whose keys it holds, so the order matters.
SHAPES = {
    "selfreg": Shape(("id", "spec", "tests"), functions.from_own),
    "HumanEval-X": Shape(
        ("prompt", "declaration", "canonical_solution", "test"),
        functions.from_humaneval_x,
        ignores=("example_test",),
    ),
    "evalplus": Shape(
        ("prompt", "entry_point", "canonical_solution", "plus_input"),
        functions.from_evalplus,
        reads=("base_input",),
        ignores=("test", "assertion"),
    ),
    "LeetCodeDataset": Shape(
        ("problem_description", "starter_code", "entry_point", "test"),
        functions.from_leetcode,
        ignores=("input_output",),
    ),
    "BigCodeBench": Shape(
        ("complete_prompt", "instruct_prompt", "entry_point", "test"), functions.from_bigcodebench
    ),
    "HumanEval": Shape(
        ("prompt", "entry_point", "canonical_solution", "test"), functions.from_humaneval
    ),
    "MBPP": Shape(
        ("task_id", "code", "test_list"),
        functions.from_mbpp,
        reads=("test", "test_imports", "test_setup_code"),
        ignores=("challenge_test_list",),
    ),
    "MultiPL-E": Shape(
        ("name", "prompt", "tests", "stop_tokens"),
        functions.from_multipl_e,
        ignores=("doctests",),
    ),
    "DS-1000": Shape(
        ("prompt", "reference_code", "code_context"),
        _refused("DS-1000 needs pandas, numpy and others, which programs do not have here"),
    ),
    "LiveCodeBench": Shape(
        ("question_content", "public_test_cases"),
        programs.from_live_code_bench,
        reads=("private_test_cases",),
    ),
    "APPS": Shape(("question", "input_output"), programs.from_apps),
    "AceCode": Shape(("question", "test_cases"), functions.from_acecode),
    "rStar": Shape(
        ("question", "inputs", "outputs"), programs.from_rstar, ignores=("test_case_type",)
    ),
    "KodCode": Shape(
        ("question", "solution", "test_code"), functions.from_kodcode, ignores=("test_info",)
    ),
    "KodCode-Light": Shape(
        ("question", "solution", "test"), functions.from_kodcode, ignores=("test_info",)
    ),
    "CodeContests": Shape(
        ("description", "public_tests"),
        programs.from_code_contests,
        reads=("private_tests", "generated_tests", "input_file", "output_file"),
    ),
    "Codeforces": Shape(
        ("description", "official_tests"),
        programs.from_codeforces,
        reads=("generated_checker", "input_mode", "input_format", "output_format"),
        ignores=("official_tests_complete", "testset_size", "generated_tests"),
    ),
    "SandboxFusion": Shape(("content", "test"), programs.from_sandbox_fusion),
    "AReaL": Shape(("prompt", "input_output"), programs.from_areal),
    "verl": Shape(("prompt", "reward_model"), programs.from_verl),
    "SkyRL": Shape(("prompt", "reward_spec"), programs.from_skyrl),
    "PrimeIntellect": Shape(("verification_info",), programs.from_verification_info),
    "Nemotron-RL": Shape(("responses_create_params", "verifier_metadata"), programs.from_nemotron),
    "DeepCoder": Shape(("problem", "tests"), programs.from_deepcoder),
    "OpenCodeReasoning": Shape(
        ("input", "output", "solution"),
        _refused("the row has no tests: its 'input' is a question, its 'output' an answer to it"),
    ),
}

# A column with such a name may hold tests, which a shape that does not know it would drop.
_LIKE_TESTS = re.compile(
    r"(^|_)(tests?|test_?cases?|cases|asserts?|assertions?|doctests?|unittests?|unit_tests?"
    r"|inputs?|outputs?|checkers?|verifiers?|ground_truth|expected)(_|$)|test_?case",
    re.IGNORECASE,
)


def load_rows(rows: Iterable[Row], source: str, shapes: Sequence[str] = ()) -> tuple[Problem, ...]:
    """Turn rows into problems, in the order of the rows.

    A row's time and memory limits are kept. Rows without tests, and rows that do not ask for a
    program, are left out. A warning counts them by reason.

    Args:
      rows: JSON objects of any of the SHAPES; shapes may be mixed.
      source: The source of the rows, for error messages.
      shapes: Names of the shapes to accept; all of SHAPES if empty.

    Raises:
      ValueError: A row fits no shape, has a bad value, has a column of tests that its shape does
        not know, or repeats an id. The message names the source, the row (from 1), the key and
        the allowed values.
    """
    problems: dict[str, Problem] = {}
    left_out: Counter[str] = Counter()
    for number, row in enumerate(rows, 1):
        try:
            problem = _convert(row, f"{source}/{number}", shapes or tuple(SHAPES))
            if problem.id in problems:
                raise ValueError(f"the id {problem.id!r} is that of an earlier row")
        except NoTests as reason:
            left_out[str(reason)] += 1
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{source}, row {number}: {error}") from error
        else:
            problems[problem.id] = problem
    if left_out:
        named = ", ".join(f"{count} ({reason})" for reason, count in left_out.most_common())
        logging.getLogger(__name__).warning("%s: left out rows: %s", source, named)
    return tuple(problems.values())


def find_shape(row: Row, shapes: Sequence[str] = ()) -> str:
    """Return the name of a row's shape.

    Raises:
      ValueError: The row fits no shape.
    """
    if not isinstance(row, Mapping):
        raise ValueError(f"a row must be a JSON object, not {row!r:.60}")
    for name in shapes or SHAPES:
        if all(key in row for key in SHAPES[name].keys):
            return name
    known = "; ".join(f"{s} has {', '.join(SHAPES[s].keys)}" for s in shapes or SHAPES)
    raise ValueError(f"the keys {', '.join(row)} fit no known row: {known}")


def _convert(row: Row, name: str, shapes: Sequence[str]) -> Problem:
    shape_name = find_shape(row, shapes)
    shape = SHAPES[shape_name]
    if shape_name == "selfreg":  # its `convert` refuses every unknown key
        return shape.convert(row, name)
    known = {*shape.keys, *shape.reads, *shape.ignores}
    for key, value in row.items():
        if key not in known and _LIKE_TESTS.search(key) and _holds_something(value):
            raise ValueError(
                f"{key!r} looks like tests, but rows of {shape_name} have no such column: drop it "
                f"(SOURCE?{key}=) if it holds none"
            )
    problem = shape.convert(row, name)
    if limit := time_limit_s(row):
        problem = replace(problem, time_limit_s=limit)
    if memory := memory_limit_mb(row):
        least = LEAST_PYTHON_MB if problem.language is Language.PYTHON else 1
        problem = replace(problem, memory_limit_mb=max(memory, least))
    return problem


def _holds_something(value: Any) -> bool:
    return len(value) > 0 if isinstance(value, (str, Sequence, Mapping)) else bool(value)
