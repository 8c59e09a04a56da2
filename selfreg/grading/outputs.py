"""Compare a program's output with the expected output, by the checker that its problem names."""

import re
from collections import Counter
from collections.abc import Sequence
from decimal import Context, Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the judge has only the standard library, and passes a similar object
    from selfreg.run.records import Checker

# Checkers that compare words regardless of line breaks. "unordered" and the others compare lines.
_BY_WORD = ("tokens", "floats", "caseless")
_INTEGER = re.compile(rb"([+-]?)0*(\d+)")
_NUMBER = re.compile(rb"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?")
# Above this, a float is too coarse for the differences that checkers look at.
_EXACT_BELOW = 1e9
_DECIMAL = Context(prec=60)

Difference = tuple[str, str]


def difference(
    output: bytes, wanted: bytes, checker: "Checker", alternatives: Sequence[bytes] = ()
) -> Difference | None:
    """Compare an output with the wanted one.

    | name | outputs are alike when |
    |---|---|
    | exact | their bytes are equal; CRLF counts as LF, and the last line break does not count |
    | lines | their lines hold the same words; blank lines and white space do not count |
    | tokens, floats, caseless | they hold the same words, whatever the line breaks |
    | unordered | they hold the same lines in any order |
    | any_of | the output is alike, as by `lines`, to the wanted one or to an alternative |

    Args:
      output: The program's output.
      wanted: The expected output.
      checker: Any checker but "program". With `absolute` or `relative`, two decimal numbers are
        alike if they differ by no more than that; two whole numbers are alike only if they are
        equal.
      alternatives: Other correct outputs.

    Returns:
      None if they agree, or "wrong_output" and a description of the first difference.
    """
    if output == wanted:
        return None  # the fast path for long outputs
    found = _compare(output, wanted, checker)
    if found and any(_compare(output, other, checker) is None for other in alternatives):
        return None
    return found


def _compare(output: bytes, wanted: bytes, checker: "Checker") -> Difference | None:
    if checker.name == "exact":
        got, want = (text.replace(b"\r\n", b"\n").removesuffix(b"\n") for text in (output, wanted))
        return None if got == want else _first_line(got.split(b"\n"), want.split(b"\n"))
    if checker.caseless:
        output, wanted = output.lower(), wanted.lower()
    if checker.name in _BY_WORD:
        words, wanted_words = output.split(), wanted.split()
        if words == wanted_words:
            return None
        at = _first(words, wanted_words, checker)
        return None if at is None else _tell("word", at, words, wanted_words)
    lines, wanted_lines = (
        [line.split() for line in text.split(b"\n") if line.strip()] for text in (output, wanted)
    )
    if lines == wanted_lines:
        return None
    if checker.name == "unordered":
        return _compare_unordered(lines, wanted_lines)
    shortest = min(len(lines), len(wanted_lines))
    at = next(
        (i for i in range(shortest) if _first(lines[i], wanted_lines[i], checker) is not None), None
    )
    if at is None:
        if len(lines) == len(wanted_lines):
            return None
        at = shortest
    return _tell(
        "line", at, *([b" ".join(line) for line in part] for part in (lines, wanted_lines))
    )


def _compare_unordered(lines: list[list[bytes]], wanted: list[list[bytes]]) -> Difference | None:
    got, want = (Counter(b" ".join(line) for line in part) for part in (lines, wanted))
    missing, extra = want - got, got - want
    if not missing and not extra:
        return None
    what, line = ("lacks", min(missing)) if missing else ("has", min(extra))
    return "wrong_output", f"{what} the line {line.decode(errors='replace'):.100}"


def _first(words: list[bytes], wanted: list[bytes], checker: "Checker") -> int | None:
    """Return the index at which two lists of words first differ; None if they agree."""
    if words == wanted:
        return None
    by_value = checker.absolute is not None or checker.relative is not None
    for i, (word, want) in enumerate(zip(words, wanted, strict=False)):
        if word != want and not (by_value and _close(word, want, checker)):
            return i
    shortest = min(len(words), len(wanted))
    return None if len(words) == len(wanted) else shortest


def _close(word: bytes, want: bytes, checker: "Checker") -> bool:
    whole, right_whole = _INTEGER.fullmatch(word), _INTEGER.fullmatch(want)
    if whole and right_whole:
        signs = [match[1] == b"-" and match[2] != b"0" for match in (whole, right_whole)]
        return whole[2] == right_whole[2] and signs[0] == signs[1]
    if not (_NUMBER.fullmatch(word) and _NUMBER.fullmatch(want)):
        return False  # float() would also accept 1_0, nan and inf
    absolute, relative = checker.absolute or 0.0, checker.relative or 0.0
    number, right = float(word), float(want)
    if abs(right) < _EXACT_BELOW and absolute + relative:
        return abs(number - right) <= max(absolute, relative * abs(right))
    exact, exact_right = (_DECIMAL.create_decimal(text.decode()) for text in (word, want))
    apart = _DECIMAL.abs(_DECIMAL.subtract(exact, exact_right))
    margin = _DECIMAL.multiply(Decimal(relative), _DECIMAL.abs(exact_right))
    return bool(apart <= max(Decimal(absolute), margin))


def _first_line(lines: list[bytes], wanted: list[bytes]) -> Difference:
    shortest = min(len(lines), len(wanted))
    at = next((i for i in range(shortest) if lines[i] != wanted[i]), shortest)
    return _tell("line", at, lines, wanted)


def _tell(what: str, at: int, parts: list[bytes], wanted: list[bytes]) -> Difference:
    got, want = (
        text[at].decode(errors="replace") if at < len(text) else "nothing"
        for text in (parts, wanted)
    )
    return "wrong_output", f"{what} {at + 1} is {got:.100}, not {want:.100}"
