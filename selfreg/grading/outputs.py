"""Whether a program wrote what it should have written."""

import re

_FRACTION = re.compile(rb"[+-]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][+-]?\d+)?")


def difference(output: bytes, wanted: bytes, tolerance: float = 0.0) -> tuple[str, str] | None:
    """Compare outputs line by line, blank lines and the amount of white space within one aside.

    Args:
      output: What the program wrote.
      wanted: What it should have written.
      tolerance: How far, absolutely or in proportion, a number may be from a wanted one that is
        written with a decimal point or an exponent. Whole numbers are compared as they are written.

    Returns:
      None where they agree, or "wrong_output" and where they differ.
    """
    if output == wanted:
        return None  # long outputs are compared in no time
    lines, wanted_lines = (
        [line.split() for line in text.split(b"\n") if line.strip()] for text in (output, wanted)
    )
    if lines == wanted_lines:
        return None
    shortest = min(len(lines), len(wanted_lines))
    at = next(
        (i for i in range(shortest) if not _agree(lines[i], wanted_lines[i], tolerance)), None
    )
    if at is None:
        if len(lines) == len(wanted_lines):
            return None
        at = shortest
    got, want = (
        b" ".join(text[at]).decode(errors="replace") if at < len(text) else "nothing"
        for text in (lines, wanted_lines)
    )
    return "wrong_output", f"line {at + 1} is {got:.100}, not {want:.100}"


def _agree(words: list[bytes], wanted: list[bytes], tolerance: float) -> bool:
    if words == wanted:
        return True
    return len(words) == len(wanted) and all(
        word == want or (tolerance > 0 and _close(word, want, tolerance))
        for word, want in zip(words, wanted, strict=True)
    )


def _close(word: bytes, want: bytes, tolerance: float) -> bool:
    if not _FRACTION.fullmatch(want):
        return False
    try:
        number, right = float(word), float(want)
    except ValueError:
        return False
    return abs(number - right) <= tolerance * max(1.0, abs(right))
