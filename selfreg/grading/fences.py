"""Find the fenced code blocks of an answer as models write them, not only as in CommonMark."""

import re
from typing import NamedTuple

_CODE_TAGS = (
    *("python", "python3", "py", "py3", "cpp", "c++", "cc", "cxx", "c", "java", "javascript"),
    *("bash", "sh", "text", "json", "go", "rust"),
)
_OPENING = re.compile(r"([ \t]*)(`{3,}|~~~+)[ \t]*([^`]*)\Z")
_TAG = re.compile(r"[{.]*([\w+#-]*)")
# A closing fence may be indented this much more than the fence that it closes (CommonMark: 3).
_SLACK = 3


class Block(NamedTuple):
    """A fenced block.

    Attributes:
      tag: The first word after the opening fence, in lower case; "" for none.
      code: The text between the fences, without the indentation of the opening one.
      is_complete: Whether there is a closing fence. If there is none, the answer was cut off.
    """

    tag: str
    code: str
    is_complete: bool


def find_blocks(text: str) -> list[Block]:
    """Return the fenced blocks of an answer, in their order.

    A block ends at the first of these: a fence that is hardly more indented than its own, so that
    fences in docstrings are code; a fence that opens another block; or a fence at the end of a line
    of code. If there is none of these, the first more deeply indented bare fence ends it.
    """
    lines = text.split("\n")
    blocks = []
    number = 0
    while number < len(lines):
        opening = _opens(lines[number])
        number += 1
        if opening is None:
            blocks += _on_one_line(lines[number - 1])
            continue
        indent, mark, tag = opening
        end, code, number = _find_end(lines, number, indent, mark)
        blocks.append(Block(tag, _outdent(code, indent, ended=end), end))
    return blocks


def _opens(line: str) -> tuple[int, str, str] | None:
    """Return an opening fence's indentation, mark and tag; None if the line opens no block."""
    line = line.rstrip("\r")
    if match := _OPENING.match(line):
        tag = _TAG.match(match[3].strip().lower())
        return len(match[1].expandtabs(4)), match[2], tag[1] if tag else ""
    # After text on its line ("Answer: ```python"), a fence must have a tag that says that code
    # follows.
    text, fence, rest = line.partition("```")
    word = rest.strip().lower()
    return (0, fence, word) if text.strip() and word in _CODE_TAGS else None


def _on_one_line(line: str) -> list[Block]:
    """Return the block of a line such as "```python print(1)```", if it has a tag for code."""
    parts = line.strip().split("```")
    words = parts[1].split(maxsplit=1) if len(parts) == 3 and not parts[0] + parts[2] else []
    if len(words) == 2 and words[0].lower() in _CODE_TAGS:
        return [Block(words[0].lower(), f"{words[1].rstrip()}\n", True)]
    return []


def _find_end(lines: list[str], start: int, indent: int, mark: str) -> tuple[bool, list[str], int]:
    """Return whether a block is closed, its lines, and the number of the line to continue at."""
    deeper = None
    for number in range(start, len(lines)):
        line = lines[number].rstrip()
        if mark[:3] not in line:
            continue
        bare = line.lstrip()
        depth = len(line[: len(line) - len(bare)].expandtabs(4))
        if bare.startswith(mark):
            is_bare = not bare.strip(mark[0])
            if depth <= indent + _SLACK:
                # A fence with a tag opens a new block, even if the previous one was never closed.
                return True, lines[start:number], number + is_bare
            deeper = number if deeper is None and is_bare else deeper
        elif line.endswith(mark) and line.count(mark) == 1:
            return True, [*lines[start:number], line.removesuffix(mark)], number + 1
    if deeper is not None:
        return True, lines[start:deeper], deeper + 1
    return False, lines[start:], len(lines)


def _outdent(lines: list[str], indent: int, *, ended: bool) -> str:
    code = "\n".join(_without(line, indent) for line in lines)
    return f"{code}\n" if ended and lines and not code.endswith("\n") else code


def _without(line: str, indent: int) -> str:
    """Return a line without the white space by which its whole block is indented."""
    width = 0
    while indent and width < len(line) and line[width] in " \t":
        indent = max(0, indent - (4 if line[width] == "\t" else 1))
        width += 1
    return line[width:]
