"""From a model's raw answer to the program that is graded."""

import re
import textwrap

from selfreg.grading.fences import Block, find_blocks
from selfreg.run.records import Language, Problem

_TAGS = {
    Language.PYTHON: re.compile(r"py|python[\d.]*|py3"),
    Language.CPP: re.compile(r"cpp\d*|c\+\+\d*|cc|cxx|c|hpp"),
}
_DEFINITION = {
    # Also a method of a class, and a name that is bound to another function.
    Language.PYTHON: r"^[ \t]*(?:async[ \t]+)?(?:def|class)[ \t]+{name}\b|^{name}[ \t]*=(?!=)",
    # A result type before the name, and a brace behind the parameters: no call has both.
    Language.CPP: r"^[ \t]*(?!return\b|else\b)[A-Za-z_][\w:<>,&* \t]*[\s&*>]{name}\s*\([^;{{]*\{{",
}
_CPP_PREAMBLE = ("#include", "using ")
_INDENTED = re.compile(r"\n*(?:  |\t)")
_THOUGHT, _THOUGHT_ENDS = "<think>", "</think>"
_TOP_FUNCTION = re.compile(r"^(?:async[ \t]+)?def[ \t]+(\w+)", re.MULTILINE)

BLOCKS = ("last", "first")


def extract_program(completion: str, problem: Problem, which: str = "last") -> str | None:
    """Take the program out of an answer; docs/data.md has a table of cases.

    What stands before `</think>` never counts, and an answer that is cut while it thinks has no
    program. Of the fenced blocks the first of these is taken that there is:

    1. the last complete block that defines the entry point, tagged with the problem's language or
       not tagged at all;
    2. the last complete block with the language's tag;
    3. the last complete block without a tag;
    4. the last complete block of whatever tag;
    5. the block at the end that is never closed, as the answer was cut.

    Blank blocks never count. Without fences the whole answer is the program. An answer that begins
    indented goes on in the body of the starter, up to the first fence.

    With a starter, code that does not define the entry point continues it: the program is starter
    and code. Code that does is preceded by what the starter has above the entry point: imports and
    helpers in Python, includes in C++. Functions that stand alone where the starter has them in a
    class become its methods.

    Args:
      completion: What the model wrote, the prompt left out.
      problem: What it was asked.
      which: "last", or "first" as in versions before the rule above: thoughts count, and of the
        blocks without a definition the first is taken.

    Returns:
      The whole program, or None if there is no code. Prose without a fence is kept: the grader
      will say that it does not parse.

    Raises:
      ValueError: An unknown `which`.
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
    """An answer without the thoughts before it; None where it consists of thoughts."""
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
    """The whole program: code with what the starter adds to it."""
    starter = problem.starter
    definition = _defines(code, problem)
    if problem.language is Language.PYTHON and (definition or not starter):
        # A list's item is indented as a whole, and so may a method be that stands alone.
        code = textwrap.dedent(code) if code[:1] in " \t\n" else code
    if not starter:
        return code
    if definition:
        owner = _class_of_entry(problem)
        if owner and not re.search(rf"^[ \t]*class[ \t]+{owner}\b", code, re.MULTILINE):
            code = _join_class(code, owner)
        return _with_preamble(code, problem)
    # A block begins on a line of its own; a bare answer goes on at the very character.
    line_break = "\n" if fenced and not starter.endswith("\n") else ""
    return starter + line_break + code


def _defines(code: str, problem: Problem) -> re.Match[str] | None:
    """Where code defines the problem's entry point."""
    if problem.entry_point is None:
        return None
    pattern = _DEFINITION[problem.language].format(name=re.escape(problem.entry_point))
    return re.search(pattern, code, re.MULTILINE)


def _class_of_entry(problem: Problem) -> str:
    """The class that the starter has the entry point in; empty for none."""
    definition = _defines(problem.starter, problem)
    if problem.language is not Language.PYTHON or not definition or definition[0][0] not in " \t":
        return ""
    above = re.findall(r"^class[ \t]+(\w+)", problem.starter[: definition.start()], re.MULTILINE)
    return str(above[-1]) if above else ""


def _join_class(code: str, owner: str) -> str:
    """Code whose functions are the methods of a class that it does not write."""
    names = dict.fromkeys(_TOP_FUNCTION.findall(code))
    methods = "".join(f"    {name} = {name}\n" for name in names)
    return f"{code.rstrip()}\n\n\nclass {owner}:\n{methods}" if methods else code


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
