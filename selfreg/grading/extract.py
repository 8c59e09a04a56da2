"""From a model's raw answer to the program that is graded."""

import re
from typing import NamedTuple

from selfreg.run.records import Language, Problem

_TAGS = {
    Language.PYTHON: ("", "python", "python3", "py"),
    Language.CPP: ("", "cpp", "c++", "cc", "cxx", "c"),
}
_DEFINITION = {
    # Also a method of a class, and a name that is bound to another function.
    Language.PYTHON: r"^[ \t]*(?:async[ \t]+)?(?:def|class)[ \t]+{name}\b|^{name}[ \t]*=(?!=)",
    # A result type before the name, and a brace behind the parameters: no call has both.
    Language.CPP: r"^[ \t]*(?!return\b|else\b)[A-Za-z_][\w:<>,&* \t]*[\s&*>]{name}\s*\([^;{{]*\{{",
}
_CPP_PREAMBLE = ("#include", "using ")
_INDENTED = re.compile(r"\n*(?:  |\t)")


class _Block(NamedTuple):
    tag: str
    code: str


def extract_program(completion: str, problem: Problem) -> str | None:
    """Take the program out of an answer.

    The code is, in this order of preference: the last fenced block of the problem's language that
    defines the entry point, the first such block that is not blank, the first block of whatever
    language that is not blank, and, without fences, the whole answer. A fence that is never closed
    (the answer was cut) holds all that follows. An answer that begins indented goes on in the body
    of the starter, up to the first fence.

    With a starter, code that does not define the entry point continues it: the program is starter
    and code. Code that does is preceded by what the starter has above the entry point: imports and
    helpers in Python, includes in C++.

    Args:
      completion: What the model wrote, the prompt left out.
      problem: What it was asked.

    Returns:
      The whole program, or None if there is no code. Prose without a fence is kept: the grader
      will say that it does not parse.
    """
    blocks = _fenced_blocks(completion)
    body = completion.partition("```")[0] if blocks else completion
    continues = bool(problem.starter and body.strip() and _INDENTED.match(body))
    fenced = bool(blocks) and not continues
    code = _choose(blocks, problem) if fenced else body
    if not code.strip():
        return None
    if not problem.starter:
        return code
    if _defines(code, problem):
        return _with_preamble(code, problem)
    # A block begins on a line of its own; a bare answer goes on at the very character.
    line_break = "\n" if fenced and not problem.starter.endswith("\n") else ""
    return problem.starter + line_break + code


def _fenced_blocks(text: str) -> list[_Block]:
    """The blocks between lines that start with ```, in their order."""
    blocks = []
    tag: str | None = None
    lines: list[str] = []
    for line in text.split("\n"):
        bare = line.strip()
        if not bare.startswith("```"):
            lines.append(line)
            continue
        if tag is not None:
            blocks.append(_Block(tag, "\n".join([*lines, ""])))
        words = bare.strip("`").lower().split()
        # A fence with a tag opens a block even where the one before was never closed.
        tag = None if tag is not None and not words else "".join(words[:1])
        lines = []
    if tag is not None:
        blocks.append(_Block(tag, "\n".join(lines)))
    return blocks


def _choose(blocks: list[_Block], problem: Problem) -> str:
    own = [block.code for block in blocks if block.tag in _TAGS[problem.language]]
    defining = [code for code in own if _defines(code, problem)]
    candidates = [*defining[-1:], *own, *(block.code for block in blocks)]
    return next((code for code in candidates if code.strip()), "")


def _defines(code: str, problem: Problem) -> re.Match[str] | None:
    """Where code defines the problem's entry point."""
    if problem.entry_point is None:
        return None
    pattern = _DEFINITION[problem.language].format(name=re.escape(problem.entry_point))
    return re.search(pattern, code, re.MULTILINE)


def _with_preamble(code: str, problem: Problem) -> str:
    if problem.language is Language.CPP:
        # No helpers: C++ does not take a second definition.
        lines = problem.starter.splitlines(keepends=True)
        return "".join(line for line in lines if line.startswith(_CPP_PREAMBLE)) + code
    # Python takes its future imports at the top only.
    future = re.compile(r"^from __future__.*\n", re.MULTILINE)
    end = max((match.end() for match in future.finditer(code)), default=0)
    return code[:end] + _python_preamble(problem) + code[end:]


def _python_preamble(problem: Problem) -> str:
    """What the starter has above the entry point, or above the class that holds it."""
    definition = _defines(problem.starter, problem)
    if definition is None:
        return ""
    lines = problem.starter[: definition.start()].splitlines(keepends=True)
    if definition[0][0] in " \t":
        while lines and (not lines[-1].strip() or lines[-1][0] in " \t"):
            lines.pop()
        lines = lines[:-1]
    return "".join(lines)
