import json
import logging

import pytest

from selfreg.data.problem_json import problem_to_json
from selfreg.data.rows import SHAPES, load_rows
from selfreg.run.records import Language, Problem, StdioCase
from selfreg.run.records import Tests as ProblemTests

HUMANEVAL = {
    "task_id": "HumanEval/7",
    "prompt": 'import math\n\ndef inc(x):\n    """ Add one.\n    >>> inc(1)\n    2\n    """\n',
    "entry_point": "inc",
    "canonical_solution": "    return x + 1\n",
    "test": "\n\ndef check(candidate):\n    assert candidate(1) == 2\n",
}
HUMANEVAL_X = {
    "task_id": "CPP/7",
    "prompt": "/*\nAdd one.\n*/\n#include<vector>\nusing namespace std;\nint inc(int x){\n",
    "declaration": "#include<vector>\n#include<algorithm>\nusing namespace std;\nint inc(int x){\n",
    "canonical_solution": "    return max(x + 1, x);\n}\n",
    "test": "#undef NDEBUG\n#include<assert.h>\nint main(){\n    assert (inc(1)==2);\n}\n",
}
CPP_ROW = {"id": "a", "spec": "?", "language": "cpp", "tests": {"code": "int main() {}"}}
MBPP = {
    "task_id": 7,
    "text": "Write a function to add one.",
    "code": "import math\r\ndef helper(x):\r\n  return x\r\ndef inc(x):\r\n  return helper(x) + 1",
    "test_list": ["assert math.isclose(inc(1), 2)", "assert inc(3) == 4"],
    "test_setup_code": "",
    "challenge_test_list": [],
}
APPS = {
    "problem_id": 7,
    "question": "Add two numbers.",
    "starter_code": "",
    "difficulty": "interview",
    "solutions": json.dumps(["print(sum(map(int, input().split())))\n"]),
    "input_output": json.dumps({"inputs": ["1 2\n", ["3 4"]], "outputs": ["3\n", ["7"]]}),
}
FUSION = {
    "id": 0,
    "content": "Echo.",
    "labels": json.dumps({"name": "echo", "difficulty": "A"}),
    "test": json.dumps([{"input": {"stdin": "a"}, "output": {"stdout": "a"}}]),
}
CONTESTS = {
    "name": "7_A. Echo",
    "description": "Echo.",
    "public_tests": {"input": ["a"], "output": ["a"]},
    "private_tests": {"input": [], "output": []},
    "generated_tests": {"input": ["b"], "output": ["b"]},
    "solutions": {"language": [2, 3], "solution": ["// C++", "print(input())"]},
    "time_limit": {"seconds": 1, "nanos": 500_000_000},
}
SELFREG = problem_to_json(Problem("mine", "add", ProblemTests(code="pass\n"), time_limit_s=7.0))
ROWS = {
    "selfreg": SELFREG,
    "HumanEval-X": HUMANEVAL_X,
    "HumanEval": HUMANEVAL,
    "MBPP": MBPP,
    "APPS": APPS,
    "CodeContests": CONTESTS,
    "SandboxFusion": FUSION,
}


def load(row):
    (problem,) = load_rows([row], "source")
    return problem


def call_based(starter, **cases):
    return APPS | {
        "starter_code": starter,
        "solutions": "",
        "input_output": json.dumps({"fn_name": "pair", **cases}),
    }


def test_rows_are_told_from_each_other():
    assert ROWS.keys() <= SHAPES.keys()
    problems = load_rows(ROWS.values(), "all")
    assert len(problems) == len(ROWS)
    for name, row in ROWS.items():
        assert load_rows([row], "source", shapes=[name]) == (load(row),)


def test_hand_made_rows_pass_their_own_tests(failures):
    assert not failures([p for p in load_rows(ROWS.values(), "all") if p.solution])


def test_humaneval():
    problem = load(HUMANEVAL)
    assert problem.id == "HumanEval/7"
    assert problem.spec == "Add one.\n    >>> inc(1)\n    2"
    assert problem.tests.code.endswith("assert candidate(1) == 2\n\ncheck(inc)\n")
    assert problem.starter == HUMANEVAL["prompt"]
    assert problem.solution.endswith('    """\n    return x + 1\n')


def test_humaneval_xl_keeps_the_languages_of_one_task_apart():
    rows = [HUMANEVAL | {"language": "python", "natural_language": n} for n in ("French", "Arabic")]
    french, arabic = load_rows(rows, "source")
    assert (french.id, arabic.id) == ("HumanEval/7/French", "HumanEval/7/Arabic")
    assert french.category == "French"


def test_humaneval_x_gives_the_program_what_the_reference_includes():
    problem = load(HUMANEVAL_X)
    assert problem.language is Language.CPP
    assert problem.entry_point == "inc"
    assert problem.spec == "Add one."
    assert problem.tests.setup == "#include<vector>\n#include<algorithm>\nusing namespace std;\n"
    assert problem.tests.code == HUMANEVAL_X["test"]


def test_mbpp_shows_one_assert_and_finds_the_entry_point():
    problem = load(MBPP)
    assert problem.id == "MBPP/7"
    assert problem.entry_point == "inc"  # the first call of a function that `code` defines
    assert problem.spec == (
        "Write a function to add one.\nYour code should pass this test:\n"
        "assert math.isclose(inc(1), 2)"
    )
    assert "\r" not in problem.solution
    assert problem.tests.code == "assert math.isclose(inc(1), 2)\nassert inc(3) == 4\n"
    assert problem.time_limit_s == 3.0
    assert load(MBPP | {"task_id": 123}).time_limit_s > 6


def test_mbpp_setup_runs_after_the_program_and_before_the_asserts():
    row = {key: value for key, value in MBPP.items() if key != "text"}
    sanitized = row | {"prompt": "Add.", "test_imports": ["import math"]}
    problem = load(sanitized | {"test_setup_code": "one = inc(0)"})
    assert problem.tests.code.startswith("import math\none = inc(0)\nassert math")
    assert problem.spec.startswith("Add.\n")


def test_apps_programs():
    problem = load(APPS)
    assert problem.id == "APPS/7"
    assert problem.tests.stdio == (StdioCase("1 2\n", "3\n"), StdioCase("3 4", "7"))
    assert problem.entry_point is None
    assert problem.category == "interview"


@pytest.mark.parametrize(
    ("starter", "program"),
    [
        ("", "def pair(a, b):\n    return a, b\n"),
        (
            "class Solution:\n    def pair(self, a: int, b: int) -> List[int]:\n        ",
            "class Solution:\n    def pair(self, a: int, b: int) -> List[int]:\n"
            "        return [a, b]\n",
        ),
    ],
)
def test_apps_calls(pool, starter, program):
    problem = load(
        call_based(starter, inputs=[[1, 2], [None, True]], outputs=[[1, 2], [None, True]])
    )
    assert problem.entry_point == "pair"
    wrong = program.replace("return", "return 0,")
    assert [grade.reward for grade in pool.grade([(problem, program), (problem, wrong)])] == [1, 0]


def test_apps_accepts_a_result_that_the_row_wraps_in_a_list(pool):
    problem = load(call_based("", inputs=[[3, 4]], outputs=[[7]]))
    programs = [f"def pair(a, b):\n    return {result}\n" for result in ("a + b", "[a + b]", "a")]
    assert [grade.reward for grade in pool.grade([(problem, p) for p in programs])] == [1, 1, 0]


@pytest.mark.parametrize(
    ("untested", "reason"),
    [
        ("", "no test cases"),
        (json.dumps({"inputs": [], "outputs": []}), "no test cases"),
        ('{"inputs": [' + "9" * 5000 + "]}", "numbers of more digits than Python reads"),
    ],
)
def test_rows_without_usable_tests_are_left_out_and_counted(caplog, untested, reason):
    rows = [APPS | {"problem_id": 8, "input_output": untested}, APPS]
    with caplog.at_level(logging.WARNING):
        assert [problem.id for problem in load_rows(rows, "here")] == ["APPS/7"]
    assert caplog.messages == [f"here: left out rows: 1 ({reason})"]


def test_code_contests():
    problem = load(CONTESTS)
    assert problem.id == "7_A. Echo"
    assert problem.tests.stdio == (StdioCase("a", "a"), StdioCase("b", "b"))
    assert problem.solution == "print(input())"
    assert problem.time_limit_s == 1.5


def test_sandbox_fusion():
    problem = load(FUSION)
    assert problem.id == "echo"
    assert problem.category == "A"
    assert problem.tests.stdio == (StdioCase("a", "a"),)


@pytest.mark.parametrize(("limit", "seconds"), [(2, 2.0), (0.5, 0.5), (None, 3.0), ({}, 3.0)])
def test_a_row_keeps_its_own_time_limit(limit, seconds):
    assert load(APPS | {"time_limit": limit}).time_limit_s == seconds


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "?"}, "the keys question fit no known row: selfreg has id, spec, tests; "),
        (["a"], r"a row must be a JSON object, not \['a'\]"),
        (HUMANEVAL | {"prompt": 3}, "'prompt' must be a string, not 3"),
        (HUMANEVAL | {"entry_point": "dec"}, "'prompt' must define 'dec', the 'entry_point'"),
        (HUMANEVAL | {"prompt": "def inc(x:"}, "'prompt' must be Python: "),
        (HUMANEVAL | {"language": "java"}, "'language' must be python, not 'java'"),
        (CPP_ROW, "'entry_point' must name the function"),
        (CPP_ROW | {"entry_point": "f"}, "'starter' or 'solution' must begin to define 'f'"),
        (HUMANEVAL_X | {"prompt": "// Add.\nint x;"}, "'prompt' must end with the signature"),
        (HUMANEVAL_X | {"prompt": "int inc(int x){"}, "'prompt' must say in a comment"),
        (MBPP | {"test_list": []}, "'test_list' must call a function that 'code' defines"),
        (MBPP | {"test_list": [1]}, "expected a list of strings, but it holds 1"),
        (MBPP | {"code": "def"}, "'code' must be Python"),
        (MBPP | {"task_id": "7"}, "'task_id' must be an integer, not '7'"),
        (APPS | {"input_output": "{"}, "'input_output' must be JSON"),
        (APPS | {"input_output": '{"inputs": []}'}, "the key 'outputs' is missing"),
        (APPS | {"input_output": '{"inputs": ["1"], "outputs": []}'}, "1 inputs, but 0 outputs"),
        (call_based("", inputs=[3], outputs=[3]), "'inputs' must be lists of arguments, not 3"),
        (APPS | {"time_limit": "soon"}, "'time_limit' must be a number of seconds, not 'soon'"),
        (FUSION | {"test": "eJxrYJ"}, "'test' must be JSON"),
        (FUSION | {"test": "[]"}, "'test' must list at least one"),
        (FUSION | {"test": '[{"input": {}, "output": {}}]'}, "the key 'stdin' is missing"),
        (CONTESTS | {"public_tests": {"input": [1], "output": ["1"]}}, "it holds 1"),
        (SELFREG | {"split": "dev"}, "'split' must be one of train"),
    ],
)
def test_a_bad_row_is_refused_and_named(row, message):
    good = {"id": "good", "spec": "", "tests": {"code": "pass"}}
    with pytest.raises(ValueError, match=rf"^some\.jsonl, row 2: .*{message}"):
        load_rows([good, row], "some.jsonl")


def test_a_repeated_id_is_refused():
    with pytest.raises(ValueError, match="some, row 2: the id 'mine' is that of an earlier row"):
        load_rows([SELFREG, SELFREG], "some")


def test_a_row_of_another_shape_than_wanted_is_refused():
    with pytest.raises(ValueError, match="fit no known row: MBPP has task_id, code, test_list"):
        load_rows([HUMANEVAL], "some", shapes=["MBPP"])
