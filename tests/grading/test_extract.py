"""Programs taken out of answers, every expectation worked out by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfreg.grading import extract_program
from selfreg.run.records import Language, Problem
from selfreg.run.records import Tests as ProblemTests

FENCE = "```"
STARTER = 'from typing import List\n\n\ndef add(x: List[int]) -> int:\n    """Add them."""\n'
CPP_STARTER = "#include <vector>\nusing namespace std;\nint add(vector<int> x) {\n"


def problem(language=Language.PYTHON, starter="", entry_point="add"):
    return Problem(
        id="test/0",
        spec="",
        tests=ProblemTests(code="pass"),
        language=language,
        entry_point=entry_point,
        starter=starter,
    )


def block(code, tag="python"):
    return f"{FENCE}{tag}\n{code}{FENCE}\n"


ADD = "def add(x):\n    return sum(x)\n"


@pytest.mark.parametrize(
    ("completion", "program"),
    [
        (ADD, ADD),
        (f"Sure!\n{block(ADD)}Done.", ADD),
        (block(ADD, ""), ADD),
        (block(ADD, "Python"), ADD),
        (block(ADD, "python title=x"), ADD),
        # The last block that defines the entry point, not the last block.
        (block("def add(x): pass\n") + block(ADD) + block("print(add([1]))\n"), ADD),
        (block("pip install x\n", "bash") + block(ADD), ADD),
        (block("add = sum\n") + block("add == sum\n"), "add = sum\n"),
        (block("class A:\n    def add(x): pass\n"), "class A:\n    def add(x): pass\n"),
        # Without one, the first that is not blank, of the right language if possible.
        (block("\n") + block("x = 1\n") + block("x = 2\n"), "x = 1\n"),
        (block("x\n", "text") + block("y\n"), "y\n"),
        (block("x\n", "text"), "x\n"),
        # Cut by length, and a fence that was forgotten.
        (f"Sure!\n{FENCE}python\ndef add(x):\n    ret", "def add(x):\n    ret"),
        (f"{FENCE}python\n{ADD}{FENCE}python\nprint(1)\n{FENCE}", ADD),
        ("def add(x):\r\n    pass", "def add(x):\r\n    pass"),
        ("I cannot do that.", "I cannot do that."),
        ("I use ``` never at the start", "I use ``` never at the start"),
        (" \n\t\n", None),
        ("", None),
        (f"Nothing:\n{FENCE}\n\n{FENCE}", None),
    ],
)
def test_without_a_starter(completion, program):
    assert extract_program(completion, problem()) == program


@pytest.mark.parametrize(
    ("completion", "program"),
    [
        # A body goes on at the very character, its indentation kept.
        ("    return sum(x)\n", STARTER + "    return sum(x)\n"),
        ("\n    return sum(x)", STARTER + "\n    return sum(x)"),
        ("    return sum(x)\n```\nThis adds.\n", STARTER + "    return sum(x)\n"),
        ("    return sum(x)\n```\n\n```python\nadd([1])\n```", STARTER + "    return sum(x)\n"),
        (block("    return sum(x)\n"), STARTER + "    return sum(x)\n"),
        # The function again: behind the starter's imports.
        (ADD, "from typing import List\n\n\n" + ADD),
        (block(ADD), "from typing import List\n\n\n" + ADD),
        (
            f"from __future__ import annotations\n{ADD}",
            f"from __future__ import annotations\nfrom typing import List\n\n\n{ADD}",
        ),
        (" ", None),
    ],
)
def test_with_a_starter(completion, program):
    assert extract_program(completion, problem(starter=STARTER)) == program


def test_a_block_begins_on_a_line_of_its_own():
    assert extract_program(block("  pass\n"), problem(starter="def add(x):")) == (
        "def add(x):\n  pass\n"
    )
    assert extract_program(" pass\n", problem(starter="def add(x):")) == "def add(x): pass\n"


def test_helpers_of_the_starter_are_kept():
    starter = f"def helper(x):\n    return x\n\n\n{STARTER}"
    helper = "def helper(x):\n    return x\n\n\nfrom typing import List\n\n\n"
    assert extract_program(ADD, problem(starter=starter)) == helper + ADD


def test_the_class_of_a_starter_is_not_torn():
    starter = "import math\nclass Solution:\n    def add(self, x):\n"
    answer = "class Solution:\n    def add(self, x):\n        return sum(x)\n"
    assert extract_program(answer, problem(starter=starter)) == "import math\n" + answer


CPP_ADD = "int add(vector<int> x) {\n    return x[0];\n}\n"


@pytest.mark.parametrize(
    ("completion", "program"),
    [
        ("    return x[0];\n}\n", CPP_STARTER + "    return x[0];\n}\n"),
        (block("    return x[0];\n}\n", "cpp"), CPP_STARTER + "    return x[0];\n}\n"),
        (CPP_ADD, f"#include <vector>\nusing namespace std;\n{CPP_ADD}"),
        (
            block(CPP_ADD, "c++") + block("int main() {\n    return add({1});\n}\n", "cpp"),
            f"#include <vector>\nusing namespace std;\n{CPP_ADD}",
        ),
        # Calls are no definitions.
        (
            block("    if (add(x)) { }\n    auto y = add(x);\n    return add(x);\n}\n", "cpp"),
            f"{CPP_STARTER}    if (add(x)) {{ }}\n    auto y = add(x);\n    return add(x);\n}}\n",
        ),
    ],
)
def test_cpp(completion, program):
    assert extract_program(completion, problem(Language.CPP, CPP_STARTER)) == program


@pytest.mark.parametrize(
    "signature",
    [
        "int add(int a)",
        "vector<pair<int, int>> add(int a,\n    int b)",
        "static long long* add(int a)",
    ],
)
def test_cpp_definitions(signature):
    code = f"{signature} {{ }}\n"
    assert extract_program(block("x\n", "cpp") + block(code, "cpp"), problem(Language.CPP)) == code


def test_a_whole_program_has_no_entry_point():
    answer = block("print(1)\n") + block("print(2)\n")
    assert extract_program(answer, problem(entry_point=None)) == "print(1)\n"


PIECES = ("```", "```python", "\n", "    ", "def add(x):", "return x", "`", "add", "{", "Sure: ")


@pytest.mark.parametrize("language", Language)
@given(pieces=st.lists(st.sampled_from(PIECES), max_size=12))
def test_any_answer_gives_a_program_or_none(language, pieces):
    for starter in ("", STARTER):
        program = extract_program("".join(pieces), problem(language, starter))
        assert program is None or program.strip()
