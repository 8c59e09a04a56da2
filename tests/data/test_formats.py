"""Test that rows of every known data set's schema are recognised, and graded correctly.

All rows here were written for these tests; none is taken from a data set.
"""

import base64
import gzip
import json
import pickle
import zlib

import pytest

from selfreg.data.cases import read_cases
from selfreg.data.problems import load_problems
from selfreg.data.rows import SHAPES, find_shape, load_rows
from selfreg.run.records import Checker, Language, Outcome

SUM = "a, b = map(int, input().split())\nprint(a + b)\n"
DIFFERENCE = SUM.replace("+", "-")
CPP_SUM = "#include <iostream>\nint main() { long a, b; std::cin >> a >> b; std::cout << a + b; }\n"
ADD = "def add(a, b):\n    return a + b\n"
NONE = "def add(a, b):\n    return None\n"
METHOD = "class Solution:\n    def add(self, a, b):\n        return a + b\n"
STARTER = "class Solution:\n    def add(self, a: int, b: int) -> int:\n        "
TABLE = {"inputs": ["1 2\n", "-4 9\n"], "outputs": ["3\n", "5\n"]}
CALLS = {"fn_name": "add", "inputs": [[1, 2], [3, 4]], "outputs": [3, 7]}
CASES = [{"type": "stdin_stdout", "input": "1 2\n", "output": "3\n", "fn_name": None}]
FUNCTIONAL = [{"testtype": "functional", "input": "1\n2", "output": "3"}]
CHAT = [{"role": "system", "content": "?"}, {"role": "user", "content": "Print the sum."}]
FENCED = f"```python\n{SUM}```"


def pickled(cases):
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(cases)))).decode()


HUMANEVAL = {
    "task_id": "HumanEval/900",
    "prompt": 'def add(a, b):\n    """Add."""\n',
    "entry_point": "add",
    "canonical_solution": "    return a + b\n",
    "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
}
# It passes the base tests, and fails only the tests that evalplus adds.
BASE_ONLY = "def add(a, b):\n    return 3\n"
PLUS_TEST = """\
import numpy as np

def is_floats(x) -> bool:
    if isinstance(x, float):
        return True
    if isinstance(x, np.ndarray):
        return x.dtype == np.float64 or x.dtype == np.float32
    return False

def assertion(out, exp, atol):
    exact_match = out == exp
    if atol == 0 and is_floats(exp):
        atol = 1e-6
    if not exact_match and atol != 0:
        assert np.allclose(out, exp, rtol=1e-07, atol=atol)
    else:
        assert exact_match

"""
PLUS_LOOP = """\
inputs = [[1, 2], [5, 6], [0.1, 0.2]]
results = [3, 11, 0.3]
for i, (inp, exp) in enumerate(zip(inputs, results)):
    assertion({}(*inp), exp, 0)
"""
APPS = {"problem_id": 900, "question": "?", "solutions": "", "difficulty": "easy"}
PRIME = {"source": "x", "task_type": "verifiable_code", "problem_id": "vcp_900"}
CONTEST = {"name": "900_A", "description": "?", "memory_limit_bytes": 256_000_000}
CODEFORCES = {
    "id": "900/A",
    "description": "Print the sum.",
    "input_format": "Two numbers.",
    "output_format": "One.",
    "interaction_format": None,
    "input_mode": "stdio",
    "time_limit": 1.0,
    "memory_limit": 256.0,
    "examples": [{"input": "1 2", "output": "3"}],
    "official_tests": [{"input": "1 2\r\n", "output": "3\r\n"}],
    "official_tests_complete": True,
    "testset_size": 1,
    "generated_tests": 0,
    "generated_checker": None,
}
# It accepts any two numbers that have the sum in the input.
SPLIT_CHECKER = """\
import sys
total = int(open(sys.argv[1]).read())
print(int(sum(map(int, open(sys.argv[3]).read().split())) == total))
"""
KODCODE = {
    "question_id": "x",
    "question": "Write add(a, b).",
    "solution": ADD,
    "test_code": "from solution import add as plus\nimport pytest\n\n"
    "@pytest.mark.parametrize('a, b, c', [(1, 2, 3), (5, 5, 10)])\n"
    "def test_many(a, b, c):\n    assert plus(a, b) == c\n\n"
    "@pytest.fixture\ndef one():\n    return 1\n\n"
    "def test_fixture(one):\n    assert plus(one, 0.5) == pytest.approx(1.5)\n\n"
    "class TestErrors:\n    def test_type(self):\n"
    "        with pytest.raises(TypeError, match='unsupported'):\n            plus(1, 'a')\n",
    "test_info": [{"function_name": "add", "function_declaration": "def add(a, b):"}],
}
LEETCODE_HELPERS = """\
from typing import *
class ListNode:
    def __init__(self, val=0, next=None):
        self.val = val
        self.next = next
def list_node(values):
    head = None
    for value in reversed(values):
        head = ListNode(value, head)
    return head
def is_same_list(a, b):
    while a and b and a.val == b.val:
        a, b = a.next, b.next
    return a is None and b is None
"""
LEETCODE = {
    "task_id": "second",
    "difficulty": "Easy",
    "problem_description": "Drop the head.",
    "starter_code": "class Solution:\n    def rest(self, head: ListNode) -> ListNode:\n        ",
    "prompt": LEETCODE_HELPERS,
    "completion": "class Solution:\n    def rest(self, head: ListNode) -> ListNode:\n"
    "        return head.next\n",
    "entry_point": "Solution().rest",
    "test": "def check(candidate):\n"
    "    assert is_same_list(candidate(head=list_node([1, 2, 3])), list_node([2, 3]))\n",
    "input_output": [{"input": "head = [1,2,3]", "output": "[2,3]"}],
}
BIGCODE = {
    "task_id": "BigCodeBench/900",
    "complete_prompt": 'import itertools\ndef add(a, b):\n    """Add."""\n',
    "instruct_prompt": "Add.",
    "canonical_solution": "    return a + b\n",
    "test": "import unittest\nclass TestCases(unittest.TestCase):\n    def test_one(self):\n"
    "        self.assertEqual(add(1, 2), 3)\n    def test_two(self):\n"
    "        with self.assertRaises(TypeError):\n            add(1, 'a')\n",
    "entry_point": "add",
    "libs": "['itertools']",
}
MULTIPL_E = {
    "name": "HumanEval_900_add",
    "language": "cpp",
    "prompt": "#include<assert.h>\n#include<bits/stdc++.h>\n// Add.\n// >>> add((1), (2))\n// (3)\n"
    "long add(long a, long b) {\n",
    "doctests": "transform",
    "tests": "}\nint main() {\n    auto candidate = add;\n    assert(candidate((1), (2)) == (3));\n"
    "    assert(candidate((5), (-2)) == (3));\n}\n",
    "stop_tokens": ["\n}"],
}
LCB = {
    "question_title": "Sum",
    "question_content": "Print the sum.",
    "question_id": "900",
    "starter_code": "",
    "difficulty": "easy",
    "metadata": "{}",
}

# Each entry has a name, a row, programs that pass, and programs that fail.
ROWS = [
    ("HumanEval", HUMANEVAL, [ADD], [NONE]),
    (
        "HumanEval",
        HUMANEVAL
        | {
            "test": PLUS_TEST
            + "def check(candidate):\n    "
            + PLUS_LOOP.format("candidate").replace("\n", "\n    ")
        },
        [ADD],
        [BASE_ONLY, NONE],
    ),
    (
        "evalplus",
        HUMANEVAL | {"base_input": [[1, 2]], "plus_input": [[5, 6], [0.1, 0.2]], "atol": 0},
        [ADD],
        [BASE_ONLY, NONE, "def add(a, b):\n    return a + b + 1e-9\n"],
    ),
    (
        "HumanEval-X",
        {
            "task_id": "CPP/900",
            "prompt": "/*\nAdd.\n*/\nusing namespace std;\nint add(int a, int b){\n",
            "declaration": "#include<vector>\nusing namespace std;\nint add(int a, int b){\n",
            "canonical_solution": "    return a + b;\n}\n",
            "test": "#undef NDEBUG\n#include<assert.h>\nint main(){\n  assert (add(1, 2)==3);\n}\n",
            "example_test": "int main(){}",
        },
        ["int add(int a, int b) { return a + b; }"],
        ["int add(int a, int b) { return 0; }"],
    ),
    (
        "HumanEval-X",
        {
            "task_id": "Python/900",
            "prompt": 'def add(a, b):\n    """Add."""\n',
            "declaration": "def add(a, b):\n",
            "canonical_solution": "    return a + b\n",
            "test": "def check(add):\n    assert add(1, 2) == 3\n\ncheck(add)\n",
        },
        [ADD],
        [NONE],
    ),
    (
        "MBPP",
        {
            "task_id": 900,
            "code": ADD,
            "prompt": "Add.",
            "test_imports": [],
            "test_list": ["assert add(1, 2) == 3"],
            "test": PLUS_TEST + PLUS_LOOP.format("add"),
        },
        [ADD],
        [BASE_ONLY, NONE],
    ),
    ("LeetCodeDataset", LEETCODE, [LEETCODE["completion"]], [METHOD.replace("a + b", "None")]),
    ("BigCodeBench", BIGCODE, [ADD], [NONE, BASE_ONLY]),
    (
        "MultiPL-E",
        MULTIPL_E,
        [MULTIPL_E["prompt"] + "    return a + b;\n}\nint main() {}\n"],
        [MULTIPL_E["prompt"] + "    return 3 * (a == 1);\n}\n"],
    ),
    (
        "APPS",
        APPS | {"input_output": json.dumps(TABLE)},
        [SUM, "print(eval('+'.join(input().split())))"],
        [DIFFERENCE, ""],
    ),
    ("APPS", APPS | {"input_output": TABLE}, [SUM], [DIFFERENCE]),
    ("APPS", APPS | {"input_output": CALLS}, [ADD, METHOD], [NONE]),
    ("APPS", APPS | {"input_output": CALLS, "starter_code": STARTER}, [METHOD], [ADD]),
    (
        "APPS",
        APPS
        | {
            "input_output": {
                "fn_name": "add",
                "inputs": [[{"1": 2}, {"2": [3]}]],
                "outputs": [{"1": 2, "2": [{"7": None}]}],
            }
        },
        ["def add(a, b):\n    return {1: a[1], 2: ({7: None},)}\n"],
        ["def add(a, b):\n    return {1: a[1], 2: [{8: None}]}\n"],
    ),
    # TACO, and TACO-verified.
    (
        "APPS",
        {"question": "?", "solutions": json.dumps([SUM]), "input_output": json.dumps(TABLE)}
        | {"time_limit": "2.0 seconds", "memory_limit": "256.0 megabytes", "name": "Sum"},
        [SUM],
        [DIFFERENCE],
    ),
    ("APPS", {"question": "?", "solutions": [SUM], "input_output": TABLE, "id": 1}, [SUM], [""]),
    (
        "LiveCodeBench",
        LCB | {"public_test_cases": json.dumps(CASES), "private_test_cases": pickled(CASES)},
        [SUM, "print(float(sum(map(int, stdin.read().split()))))"],
        [DIFFERENCE],
    ),
    (
        "LiveCodeBench",
        LCB
        | {
            "starter_code": STARTER,
            "metadata": '{"func_name": "add"}',
            "public_test_cases": json.dumps(FUNCTIONAL),
            "private_test_cases": pickled(
                [FUNCTIONAL[0] | {"input": '"a"\n"b"', "output": '"ab"'}]
            ),
        },
        [METHOD],
        [METHOD.replace("a + b", "[a + b]"), METHOD.replace("a + b", "3")],
    ),
    (
        "AceCode",
        {"id": "1", "question": "Add.", "test_cases": ["assert add(1, 2) == 3"], "inferences": []},
        [ADD],
        [NONE],
    ),
    (
        "rStar",
        {
            "question_id": "1",
            "question": "?",
            "starter_code": "",
            "inputs": json.dumps(TABLE["inputs"]),
            "outputs": json.dumps(TABLE["outputs"]),
            "func_name": "",
            "test_case_type": "x",
        },
        [SUM],
        [""],
    ),
    (
        "rStar",
        {
            "question_id": "1",
            "question": "?",
            "starter_code": STARTER,
            "inputs": json.dumps(CALLS["inputs"]),
            "outputs": json.dumps(CALLS["outputs"]),
            "func_name": "add",
            "class_name": "Solution",
        },
        [METHOD],
        [ADD],
    ),
    ("KodCode", KODCODE, [ADD], [NONE, ADD.replace("a + b", "int(a) + int(b)")]),
    (
        "KodCode-Light",
        {
            "question": "Add.",
            "solution": ADD,
            "test": "from solution import *\ndef test_one():\n    assert add(1, 2) == 3\n",
        },
        [ADD],
        [NONE],
    ),
    (
        "CodeContests",
        CONTEST
        | {
            "public_tests": {"input": ["1 2\n"], "output": ["3\n"]},
            "solutions": {"language": [2, 3], "solution": [CPP_SUM, SUM]},
            "time_limit": {"seconds": 2, "nanos": 0},
        },
        [SUM],
        [""],
    ),
    (
        "CodeContests",
        CONTEST
        | {
            "public_tests": [{"input": "1 2\n", "output": "YES\n3.0"}],
            "private_tests": [],
            "solutions": [],
        },
        ["print('yes', 3.000001)"],
        ["print('yes', 3.1)", "print('no', 3)"],
    ),
    ("Codeforces", CODEFORCES, [SUM, "print(*[3])"], [DIFFERENCE]),
    (
        "Codeforces",
        CODEFORCES
        | {
            "official_tests": [{"input": "10", "output": "5 5"}],
            "generated_checker": SPLIT_CHECKER,
        },
        ["print(4, 6)", "print(5, 5)"],
        ["print(4, 5)", ""],
    ),
    (
        "SandboxFusion",
        {
            "content": "?",
            "labels": "{}",
            "test": json.dumps([{"input": {"stdin": "1 2"}, "output": {"stdout": "3.0 YES"}}]),
        },
        ["print('3.000001 yes')"],
        ["print(4)"],
    ),
    ("SandboxFusion", {"content": "Add.", "test": "\nassert(add(1, 2) == 3)"}, [ADD], [NONE]),
    (
        "SandboxFusion",
        {
            "content": "Add.",
            "test": base64.b64encode(
                zlib.compress(pickle.dumps({"input_output": json.dumps(CALLS)}))
            ).decode(),
        },
        [METHOD, ADD],
        [NONE],
    ),
    (
        "AReaL",
        {"prompt": "?", "input_output": json.dumps(TABLE), "task": "code", "solutions": [FENCED]},
        [SUM],
        [""],
    ),
    (
        "verl",
        {
            "data_source": "taco",
            "prompt": CHAT,
            "ability": "code",
            "reward_model": {"style": "rule", "ground_truth": json.dumps(TABLE)},
        },
        [SUM],
        [""],
    ),
    (
        "verl",
        {
            "prompt": CHAT,
            "reward_model": {
                "ground_truth": json.dumps({"fn_name": "add", "inputs": ["1\n2"], "outputs": ["3"]})
            },
        },
        [ADD],
        [NONE],
    ),
    (
        "SkyRL",
        {
            "prompt": CHAT,
            "reward_spec": {
                "method": "rule",
                "ground_truth": json.dumps([FUNCTIONAL[0] | {"metadata": {"func_name": "add"}}]),
            },
        },
        [METHOD],
        [NONE],
    ),
    (
        "PrimeIntellect",
        PRIME
        | {
            "prompt": "?",
            "gold_standard_solution": FENCED,
            "verification_info": repr({"language": "python", "test_cases": CASES}),
        },
        [SUM],
        [""],
    ),
    (
        "PrimeIntellect",
        PRIME
        | {
            "prompt": "?",
            "verification_info": {
                "language": "python",
                "test_cases": [
                    {"fn_name": "add", "input": [1, 2], "output": 3, "type": "function_call"}
                ],
            },
        },
        [ADD],
        [NONE],
    ),
    (
        "PrimeIntellect",
        PRIME | {"prompt": "?", "verification_info": {"test_cases": json.dumps(TABLE)}},
        [SUM],
        [""],
    ),
    (
        "PrimeIntellect",
        {"problem": "?", "verification_info": {"language": "cpp", "test_cases": CASES}},
        [CPP_SUM],
        ["int main() {}"],
    ),
    (
        "PrimeIntellect",
        {"prompt": CHAT, "verification_info": {"language": "python", "test_cases": CASES}},
        [SUM],
        [""],
    ),
    (
        "Nemotron-RL",
        {
            "hash_id": "1",
            "responses_create_params": {"input": CHAT},
            "verifier_metadata": {"unit_tests": json.dumps(TABLE)},
        },
        [SUM],
        [""],
    ),
    ("DeepCoder", {"problem": "?", "solutions": [FENCED], "tests": json.dumps(CASES)}, [SUM], [""]),
    (
        "DeepCoder",
        {
            "problem": "?",
            "starter_code": STARTER,
            "tests": json.dumps(FUNCTIONAL),
            "metadata": {"func_name": "add"},
        },
        [METHOD],
        [ADD],
    ),
    ("DeepCoder", {"problem": "?", "tests": TABLE}, [SUM], [""]),
]
REFUSED = {
    "DS-1000": (
        {"prompt": "?", "reference_code": "x", "code_context": "y"},
        "DS-1000 needs pandas",
    ),
    "OpenCodeReasoning": (
        {"id": "1", "input": "?", "output": FENCED, "solution": SUM},
        "the row has no tests",
    ),
}


def load(row):
    (problem,) = load_rows([row], "source")
    return problem


def test_every_shape_has_a_row():
    assert {name for name, *_ in ROWS} | REFUSED.keys() | {"selfreg"} == SHAPES.keys()


def test_rows_are_told_and_graded(pool):
    """Grade the programs of all rows in one call, so that different problems run in parallel."""
    jobs, wanted = [], []
    for name, row, right, wrong in ROWS:
        assert find_shape(row) == name
        problem = load(row)
        jobs += [(problem, program) for program in (*right, *wrong)]
        wanted += [(name, program, 1.0) for program in right]
        wanted += [(name, program, 0.0) for program in wrong]
        if problem.solution:
            jobs.append((problem, problem.solution))
            wanted.append((name, problem.solution, 1.0))
    grades = pool.grade(jobs)
    pairs = list(zip(wanted, grades, strict=True))
    assert not [(*job, g) for job, g in pairs if not g.is_verdict or g.reward != job[2]]


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_graded_is_refused(name):
    row, message = REFUSED[name]
    assert find_shape(row) == name
    with pytest.raises(ValueError, match=message):
        load(row)


def apps(**changes):
    return APPS | {"input_output": TABLE} | changes


@pytest.mark.parametrize(
    ("row", "message"),
    [
        # An unread column of tests is refused, not dropped silently.
        (HUMANEVAL | {"plus_cases": [[1]]}, "'plus_cases' looks like tests"),
        (apps(hidden_tests=["x"]), "'hidden_tests' looks like tests"),
        (apps(checker="x"), "'checker' looks like tests"),
        (KODCODE | {"unit_tests": "x"}, "'unit_tests' looks like tests"),
        ({"problem": "?", "tests": [CASES[0] | {"files": ["x"]}]}, "the unknown part 'files'"),
        (apps(input_output=TABLE | {"checker": "x"}), "the unknown part 'checker'"),
        ({"problem": "?", "verification_info": {"test_cases": CASES, "checker": "x"}}, "'checker'"),
        # These languages are not graded.
        (
            {
                "task_id": "Java/0",
                "prompt": "?",
                "declaration": "",
                "canonical_solution": "",
                "test": "",
            },
            "'Java/0' is of a language that is not graded",
        ),
        (
            {"problem": "?", "verification_info": {"language": "rust", "test_cases": CASES}},
            "'rust'",
        ),
        (MULTIPL_E | {"language": "rs"}, "in cpp, not in 'rs'"),
        (CODEFORCES | {"language": "java"}, "'language' names the language 'java'"),
        # These inputs have lost their types.
        (
            HUMANEVAL | {"task_id": "Mbpp/2", "base_input": [], "plus_input": [[1]]},
            "read the rows of evalplus/mbppplus",
        ),
        # These tests cannot be decoded, or they are not valid cases.
        ({"problem": "?", "tests": "eJxrYJ"}, "'tests' must be JSON"),
        ({"problem": "?", "tests": pickled(CASES)[:60]}, "'tests'"),
        ({"problem": "?", "tests": json.dumps([{"type": "stdin", "input": "1"}])}, "'output'"),
        ({"problem": "?", "tests": [CASES[0] | {"type": "interactive"}]}, "the type 'interactive'"),
        ({"problem": "?", "tests": FUNCTIONAL}, "calls a function that the row does not name"),
        ({"problem": "?", "tests": 3}, "must hold test cases, not 3"),
        (apps(time_limit="soon"), "'time_limit' must be a number of seconds"),
        (apps(time_limit=-1), "'time_limit' must be a number of seconds"),
        (apps(memory_limit="much"), "'memory_limit' must be an amount of memory"),
        (apps(memory_limit=1 << 30), "'memory_limit' must be an amount of memory"),
        # These tests need parts of pytest that have no stand-in, or they have no test function.
        (KODCODE | {"test_code": "import pytest\ndef test_a(tmp_path):\n    pass\n"}, "'tmp_path'"),
        (KODCODE | {"test_code": "import pytest\npytest.skip('x')\n"}, "pytest.skip"),
        (KODCODE | {"test_code": "from solution import add\n"}, "no test function"),
    ],
)
def test_bad_rows_are_refused(row, message):
    with pytest.raises(ValueError, match=rf"^source, row 1: .*{message}"):
        load(row)


class _Evil:
    def __reduce__(self):
        return print, ("this ran",)


def test_a_pickle_with_code_is_not_run(capsys):
    evil = base64.b64encode(zlib.compress(pickle.dumps(_Evil()))).decode()
    with pytest.raises(ValueError, match="'tests' holds a pickle that is not read: it names"):
        load({"problem": "?", "tests": evil})
    assert not capsys.readouterr().out


def test_rows_that_are_no_programs_are_left_out_by_reason(caplog):
    rows = [
        {"prompt": CHAT, "ability": "math", "reward_model": {"ground_truth": "42"}},
        CODEFORCES | {"interaction_format": "Ask."},
        CODEFORCES | {"input_mode": "file"},
        CONTEST | {"public_tests": {"input": ["1"], "output": ["1"]}, "input_file": "a.in"},
        PRIME | {"prompt": "?", "task_type": "verifiable_math", "verification_info": "{}"},
        apps(),
    ]
    assert len(load_rows(rows, "here")) == 1
    (message,) = caplog.messages
    assert message.startswith("here: left out rows: 2 (programs that read or write files)")
    assert "1 (math is not code)" in message
    assert "1 (interactive problems)" in message


@pytest.mark.parametrize(
    ("changes", "seconds", "mib"),
    [
        ({}, 3.0, 1024),
        ({"time_limit": "2.0 seconds", "memory_limit": "256.0 megabytes"}, 2.0, 256),
        ({"time_limit": "500 ms", "memory_limit": "1 GB"}, 0.5, 1024),
        ({"time_limit": "1 second", "memory_limit": "512 MiB"}, 1.0, 512),
        ({"time_limit": "3s", "memory_limit": 256.0}, 3.0, 256),
        (
            {"time_limit": {"seconds": 1, "nanos": 500_000_000}, "memory_limit_bytes": 256_000_000},
            1.5,
            245,
        ),
        ({"time_limit": None, "memory_limit": None}, 3.0, 1024),
        # The limit is raised, because the interpreter itself needs memory.
        ({"memory_limit": "16 megabytes"}, 3.0, 128),
    ],
)
def test_limits_of_rows(changes, seconds, mib):
    problem = load(apps(**changes))
    assert (problem.time_limit_s, problem.memory_limit_mb) == (seconds, mib)


def test_the_memory_limit_of_a_row_applies(pool):
    problem = load(apps(memory_limit="128 megabytes"))
    hungry = f"x = bytearray(200 << 20)\n{SUM}"
    small = f"x = bytearray(20 << 20)\n{SUM}"
    grades = pool.grade([(problem, hungry), (problem, small), (load(apps()), hungry)])
    assert [grade.outcome for grade in grades] == [Outcome.MEMORY, Outcome.PASSED, Outcome.PASSED]


def test_the_data_sets_own_checkers_are_the_defaults():
    by_name = {}
    for name, row, *_ in ROWS:
        by_name.setdefault(name, load(row).tests.checker)
    assert by_name["CodeContests"] == Checker("floats", 1e-5, 0.0, caseless=True)
    assert by_name["LiveCodeBench"] == Checker("lines", 0.0, 0.0)
    assert by_name["APPS"] == by_name["verl"] == Checker("lines", 1e-5, 1e-5)


@pytest.mark.parametrize(
    ("name", "language"),
    [
        (None, Language.PYTHON),
        ("Python 3", Language.PYTHON),
        ("py", Language.PYTHON),
        ("C++", Language.CPP),
        ("cpp17", Language.CPP),
        ("GNU C++20 (64)", Language.CPP),
    ],
)
def test_languages_by_their_usual_names(name, language):
    row = {"problem": "?", "verification_info": {"language": name, "test_cases": CASES}}
    assert load(row).language is language


def test_multipl_e_is_for_evaluation_only():
    assert load(MULTIPL_E).evaluation_only
    assert load(MULTIPL_E).language is Language.CPP
    assert not load(HUMANEVAL).evaluation_only


def test_a_function_without_a_starter_is_named_in_the_spec():
    assert "The function's name is `add`." in load(APPS | {"input_output": CALLS}).spec


def test_cases_of_two_kinds_or_two_functions_are_refused():
    with pytest.raises(ValueError, match="of a whole program and of a function at once"):
        read_cases([CASES[0], FUNCTIONAL[0]], "tests", "add")
    calls = [{"type": "function_call", "input": [1], "output": 1, "fn_name": n} for n in "fg"]
    with pytest.raises(ValueError, match="call both 'f' and 'g'"):
        read_cases(calls, "tests")


def test_parquet_reads_as_json_lines_do(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    rows = [row for name, row, *_ in ROWS if name == "verl"][:1] * 1
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (parquet,) = load_problems(f"parquet:{tmp_path / 'rows.parquet'}")
    (lines,) = load_problems(f"jsonl:{tmp_path / 'rows.jsonl'}")
    assert (parquet.tests, parquet.spec) == (lines.tests, lines.spec)


def test_own_rows_in_parquet_have_null_for_what_they_lack(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    tests = {"stdio": [{"stdin": "1 2", "stdout": "3"}]}
    rows = [
        {"id": "b", "spec": "?", "tests": tests | {"checker": "tokens"}, "starter": "x"},
        {"id": "a", "spec": "?", "tests": tests},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    assert load_problems(f"parquet:{tmp_path / 'rows.parquet'}") == load_rows(rows, "source")


def test_columns_are_renamed(tmp_path):
    row = {"text": "?", "io": TABLE, "hidden_tests": "x"}
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row))
    source = f"jsonl:{path}?text=question&io=input_output&hidden_tests="
    (problem,) = load_problems(source)
    assert problem.spec == "?"
    for bad, message in (
        ("?text", "'text' is not OLD=NEW"),
        ("?", "is followed by OLD=NEW"),
        ("?body=question", "row 1 has no column 'body'; it has text, io"),
        ("?text=io", "row 1 has a column 'io' already"),
    ):
        with pytest.raises(ValueError, match=message):
            load_problems(f"jsonl:{path}{bad}")


@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.json.gz", "rows.parquet", "rows.jsonl"])
def test_a_cut_file_is_one_line(tmp_path, name):
    data = gzip.compress(json.dumps(apps()).encode() * 50)[:-20]
    if name.endswith(("parquet", "jsonl")):
        data = b"PAR1\xff" + data
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=name) as error:
        load_problems(f"jsonl:{tmp_path / name}")
    assert "\n" not in str(error.value)


def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(apps()).encode())
    assert len(load_problems(f"jsonl:{path}")) == 1
