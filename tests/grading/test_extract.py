"""Test the extraction of programs from answers. Every expectation was worked out by hand."""

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
        # The last block that defines the entry point wins over the last block.
        (block("def add(x): pass\n") + block(ADD) + block("print(add([1]))\n"), ADD),
        (block("pip install x\n", "bash") + block(ADD), ADD),
        (block("add = sum\n") + block("add == sum\n"), "add = sum\n"),
        (block("class A:\n    def add(x): pass\n"), "class A:\n    def add(x): pass\n"),
        # If none does, the last block that is not blank wins, in the right language if possible.
        (block("x = 1\n") + block("x = 2\n") + block("\n"), "x = 2\n"),
        (block("x\n", "text") + block("y\n"), "y\n"),
        (block("x\n", "text"), "x\n"),
        # The answer was cut by length, or its closing fence was forgotten.
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
        # A function body is appended directly to the starter, with its indentation.
        ("    return sum(x)\n", STARTER + "    return sum(x)\n"),
        ("\n    return sum(x)", STARTER + "\n    return sum(x)"),
        ("    return sum(x)\n```\nThis adds.\n", STARTER + "    return sum(x)\n"),
        ("    return sum(x)\n```\n\n```python\nadd([1])\n```", STARTER + "    return sum(x)\n"),
        (block("    return sum(x)\n"), STARTER + "    return sum(x)\n"),
        # A repeated function follows the starter's imports.
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
        # Calls do not count as definitions.
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


BRUTE, FINAL = "print(1)\n", "print(2)\n"
THOUGHT = f"<think>\nLet me try:\n{block(BRUTE)}Hm.\n</think>\n"


# docs/data.md shows this table.
@pytest.mark.parametrize(
    ("completion", "program"),
    [
        # The last block wins, whatever precedes it.
        (block(BRUTE) + "Faster:\n" + block(FINAL), FINAL),
        (block(BRUTE) + block("$ python a.py\n2\n", "bash"), BRUTE),
        (block("1 2\n", "") + block(FINAL) + "Sample:\n" + block("1 2\n", ""), FINAL),
        (block(BRUTE, "") + block(FINAL, ""), FINAL),
        (block("int main() {}\n", "cpp") + block(FINAL, "py"), FINAL),
        (block(FINAL) + block("int main() {}\n", "cpp"), FINAL),
        # Blocks within the reasoning do not count, however it is marked.
        (THOUGHT + block(FINAL), FINAL),
        (THOUGHT.removeprefix("<think>") + block(FINAL), FINAL),
        (THOUGHT + FINAL, "\n" + FINAL),
        (THOUGHT.partition("</think>")[0], None),
        (THOUGHT, None),
        # A truncated block follows a complete one, or is alone.
        (block(FINAL) + f"{FENCE}python\nprint(", FINAL),
        (f"{FENCE}python\nprint(", "print("),
        # Models write these forms of fences.
        (f"{FENCE}python\nprint(2){FENCE}\nDone.", FINAL),
        (f"Answer: {FENCE}python\nprint(2)\n{FENCE}", FINAL),
        (f"{block(BRUTE)}So:\n{FENCE}python print(2){FENCE}\n", FINAL),
        (f"1. So:\n  {FENCE}python\n  if 1:\n    print(2)\n  {FENCE}\n", "if 1:\n  print(2)\n"),
        (f"-\t{FENCE}python\n\tprint(2)\n\t{FENCE}\n", FINAL),
        (f"    {FENCE}python\n    print(2)\n    {FENCE}\n", FINAL),
        (f"{FENCE}python\nprint(2)\n      {FENCE}\nText.", FINAL),
        (f"~~~python\nprint('{FENCE}')\n~~~\n", f"print('{FENCE}')\n"),
        (f"`{FENCE}python\nx = 1\n{FENCE}\ny = 1\n`{FENCE}\n", f"x = 1\n{FENCE}\ny = 1\n"),
        (f"{FENCE}python {{.line}}\nprint(2)\n{FENCE}", FINAL),
        (f"{FENCE}{{.python}}\nprint(2)\n{FENCE}", FINAL),
        (f"{FENCE}Python3\r\nprint(2)\r\n{FENCE}\r\n", "print(2)\r\n"),
        (f'{FENCE}python\n"""\n    {FENCE}python\n    x\n    {FENCE}\n"""\nprint(2)\n{FENCE}\n',
         f'"""\n    {FENCE}python\n    x\n    {FENCE}\n"""\nprint(2)\n'),
        (f"{FENCE}python\n\ufeffprint(2)\n{FENCE}", FINAL),
    ],
)  # fmt: skip
def test_a_whole_program(completion, program):
    assert extract_program(completion, problem(entry_point=None)) == program


@pytest.mark.parametrize(
    ("completion", "program"),
    [
        (block("def add(x):\n    return 0\n") + block(ADD), ADD),
        (block(ADD) + block("print(add([1]))\n"), ADD),
        (block(ADD, "") + block("print(add([1]))\n"), ADD),
        (block(ADD) + block("def add(x):\n    return 0\n", "java"), ADD),
        (f"<think>{block(ADD)}</think>" + block("add = max\n"), "add = max\n"),
        (block(ADD) + f"{FENCE}python\ndef add(x):\n    ret", ADD),
        (f"   {FENCE}python\n   def add(x):\n       return sum(x)\n   {FENCE}\n", ADD),
    ],
)
def test_a_function(completion, program):
    assert extract_program(completion, problem()) == program


def test_first_takes_what_older_versions_took():
    whole = problem(entry_point=None)
    assert extract_program(block(BRUTE) + block(FINAL), whole, "first") == BRUTE
    assert extract_program(THOUGHT + block(FINAL), whole, "first") == BRUTE
    assert extract_program(block("1 2\n", "") + block(FINAL), whole, "first") == "1 2\n"
    assert extract_program(block("def add(x): pass\n") + block(ADD), problem(), "first") == ADD
    with pytest.raises(ValueError, match="which must be last or first, not 'best'"):
        extract_program(ADD, whole, "best")


CLASS_STARTER = "import math\nclass Solution:\n    def add(self, x: int) -> int:\n        "


@pytest.mark.parametrize(
    "answer",
    [
        "def add(self, x):\n    return self.twice(x) + 1\ndef twice(self, x):\n    return 2 * x\n",
        "    def twice(self, x):\n        return 2 * x\n\n    def add(self, x):\n"
        "        return self.twice(x) + 1\n",
        "class Solution:\n    def add(self, x):\n        return 2 * x + 1\n",
    ],
)
def test_bare_methods_join_the_class_of_the_starter(answer):
    for text in (block(answer), answer) if not answer.startswith(" ") else (block(answer),):
        program = extract_program(text, problem(starter=CLASS_STARTER))
        names = {}
        exec(program, names)
        assert names["Solution"]().add(3) == 7
        assert names["math"]


def test_a_body_still_continues_a_method_of_the_starter():
    program = extract_program(block("        return x\n"), problem(starter=CLASS_STARTER))
    names = {}
    exec(program, names)
    assert names["Solution"]().add(3) == 3


def test_a_function_beside_its_own_main_is_taken_whole():
    code = f"{CPP_ADD}int main() {{ return add({{1}}); }}\n"
    program = extract_program(block(code, "cpp"), problem(Language.CPP, CPP_STARTER))
    assert program == f"#include <vector>\nusing namespace std;\n{code}"


PIECES = ("```", "```python", "\n", "    ", "def add(x):", "return x", "`", "add", "{", "Sure: ")


@pytest.mark.parametrize("language", Language)
@given(pieces=st.lists(st.sampled_from(PIECES), max_size=12))
def test_any_answer_gives_a_program_or_none(language, pieces):
    for starter in ("", STARTER):
        program = extract_program("".join(pieces), problem(language, starter))
        assert program is None or program.strip()


def test_a_long_answer_takes_no_time():
    for line in (
        "x" * 1_000_000,
        "` " * 500_000,
        f"{FENCE}python\n" * 100_000,
        f"a{FENCE}" * 250_000,
    ):
        extract_program(line, problem())
