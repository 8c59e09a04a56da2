"""Extract the program to grade from a model's raw answer."""

import re
import textwrap

from selfreg.grading.fences import Block, find_blocks
from selfreg.run.records import Language, Problem

_TAGS = {
    Language.PYTHON: re.compile(r"py|python[\d.]*|py3"),
    Language.CPP: re.compile(r"cpp\d*|c\+\+\d*|cc|cxx|c|hpp"),
}
_DEFINITION = {
    # This also matches a method of a class, and a name that is bound to another function.
    Language.PYTHON: r"^[ \t]*(?:async[ \t]+)?(?:def|class)[ \t]+{name}\b|^{name}[ \t]*=(?!=)",
    # A definition has a result type before the name and a brace after the parameters. No call has
    # both.
    Language.CPP: r"^[ \t]*(?!return\b|else\b)[A-Za-z_][\w:<>,&* \t]*[\s&*>]{name}\s*\([^;{{]*\{{",
}
_CPP_PREAMBLE = ("#include", "using ")
_INDENTED = re.compile(r"\n*(?:  |\t)")
_THOUGHT, _THOUGHT_ENDS = "<think>", "</think>"
_TOP_FUNCTION = re.compile(r"^(?:async[ \t]+)?def[ \t]+(\w+)", re.MULTILINE)

BLOCKS = ("last", "first")


def extract_program(completion: str, problem: Problem, which: str = "last") -> str | None:
    """Extract the program from an answer; docs/data.md has a table of cases.

    Text before `</think>` never counts, and an answer that is cut off while it thinks has no
    program. The program is the first of these fenced blocks that exists:

    1. the last complete block that defines the entry point, if its tag is the problem's language or
       it has no tag;
    2. the last complete block with the language's tag;
    3. the last complete block without a tag;
    4. the last complete block with any tag;
    5. an unclosed block at the end of an answer that was cut off.

    Blank blocks never count. If there are no fences, the whole answer is the program. If the
    problem has a starter and the answer begins indented, its text up to the first fence continues
    the body of the starter.

    If there is a starter and the code does not define the entry point, the program is the starter
    followed by the code. If the code does define it, the program is the code preceded by what the
    starter has above the entry point: imports and helpers in Python, includes in C++. If the
    starter has the entry point in a class and the code has bare functions instead, these become
    methods of that class.

    Args:
      completion: The model's answer, without the prompt.
      problem: The problem that the model was asked to solve.
      which: "last", or "first" as in versions before the rule above: thoughts count, and the first
        of the blocks without a definition is taken.

    Returns:
      The whole program, or None if there is no code. Prose without a fence is kept: the grader will
      report that it does not parse.

    Raises:
      ValueError: `which` is unknown.
    """
    if which not in BLOCKS:
        raise ValueError(f"which must be {' or '.join(BLOCKS)}, not {which!r}")
    if which == "last":
        answer = _behind_thoughts(completion)
        if answer is None:
            return None
        completion = answer
    blocks = find_blocks(completion)
    body = completion.partition("```")[0] if blocks else completion
    continues = bool(problem.starter and body.strip() and _INDENTED.match(body))
    fenced = bool(blocks) and not continues
    code = body
    if fenced:
        code = _choose_last(blocks, problem) if which == "last" else _choose_first(blocks, problem)
    if not code.strip():
        return None
    return _complete(code.removeprefix("\ufeff"), problem, fenced=fenced)


def _behind_thoughts(completion: str) -> str | None:
    """Return an answer without the thoughts before it; None if it consists only of thoughts."""
    _, ended, answer = completion.rpartition(_THOUGHT_ENDS)
    if ended:
        return answer
    return None if completion.lstrip().startswith(_THOUGHT) else completion


def _choose_last(blocks: list[Block], problem: Problem) -> str:
    filled = [block for block in blocks if block.code.strip()]
    complete = [block for block in filled if block.is_complete]
    for candidates in (complete, filled):
        own = [block for block in candidates if _TAGS[problem.language].fullmatch(block.tag)]
        untagged = [block for block in candidates if not block.tag]
        defining = [
            block
            for block in candidates
            if (block in own or block in untagged) and _defines(block.code, problem)
        ]
        for kind in (defining, own, untagged, candidates):
            if kind:
                return kind[-1].code
    return ""


def _choose_first(blocks: list[Block], problem: Problem) -> str:
    tags = _TAGS[problem.language]
    own = [block.code for block in blocks if not block.tag or tags.fullmatch(block.tag)]
    defining = [code for code in own if _defines(code, problem)]
    candidates = [*defining[-1:], *own, *(block.code for block in blocks)]
    return next((code for code in candidates if code.strip()), "")


def _complete(code: str, problem: Problem, *, fenced: bool) -> str:
    """Return the whole program: the code with the parts that the starter adds to it."""
    starter = problem.starter
    definition = _defines(code, problem)
    if problem.language is Language.PYTHON and (definition or not starter):
        # The code of a list item is indented as a whole, and a bare method may be too.
        code = textwrap.dedent(code) if code[:1] in " \t\n" else code
    if not starter:
        return code
    if definition:
        owner = _class_of_entry(problem)
        if owner and not re.search(rf"^[ \t]*class[ \t]+{owner}\b", code, re.MULTILINE):
            code = _join_class(code, owner)
        return _with_preamble(code, problem)
    # A block begins on its own line. A bare answer continues at the exact character.
    line_break = "\n" if fenced and not starter.endswith("\n") else ""
    return starter + line_break + code


def _defines(code: str, problem: Problem) -> re.Match[str] | None:
    """Find where code defines the problem's entry point."""
    if problem.entry_point is None:
        return None
    pattern = _DEFINITION[problem.language].format(name=re.escape(problem.entry_point))
    return re.search(pattern, code, re.MULTILINE)


def _class_of_entry(problem: Problem) -> str:
    """Return the class that contains the entry point in the starter; empty for none."""
    definition = _defines(problem.starter, problem)
    if problem.language is not Language.PYTHON or not definition or definition[0][0] not in " \t":
        return ""
    above = re.findall(r"^class[ \t]+(\w+)", problem.starter[: definition.start()], re.MULTILINE)
    return str(above[-1]) if above else ""


def _join_class(code: str, owner: str) -> str:
    """Add a class to code, with the code's top-level functions as its methods."""
    names = dict.fromkeys(_TOP_FUNCTION.findall(code))
    methods = "".join(f"    {name} = {name}\n" for name in names)
    return f"{code.rstrip()}\n\n\nclass {owner}:\n{methods}" if methods else code


def _with_preamble(code: str, problem: Problem) -> str:
    if problem.language is Language.CPP:
        # Helpers are left out, because C++ does not accept a second definition.
        lines = problem.starter.splitlines(keepends=True)
        return "".join(line for line in lines if line.startswith(_CPP_PREAMBLE)) + code
    # Python accepts future imports only at the top.
    future = re.compile(r"^from __future__.*\n", re.MULTILINE)
    end = max((match.end() for match in future.finditer(code)), default=0)
    return code[:end] + _python_preamble(problem) + code[end:]


def _python_preamble(problem: Problem) -> str:
    """Return what the starter has above the entry point, or above the class that contains it."""
    definition = _defines(problem.starter, problem)
    if definition is None:
        return ""
    lines = problem.starter[: definition.start()].splitlines(keepends=True)
    if definition[0][0] in " \t":
        while lines and (not lines[-1].strip() or lines[-1][0] in " \t"):
            lines.pop()
        lines = lines[:-1]
    return "".join(lines)
