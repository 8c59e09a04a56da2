"""Observations as lines of JSON, so that a guard that was stopped goes on from its own file.

    {"step": 40, "rates": [0.25, 1.0, 0.5]}     the panel: mean reward of each problem
    {"step": 41, "reward": 0.53}                the mean reward of a training step

Anything can write such a file; other names beside these are left alone.
"""

import json
import math
from collections.abc import Iterable
from pathlib import Path

from selfreg.guard.records import Logged, Look


def line(seen: Look | Logged) -> str:
    """An observation as one line, with its newline."""
    if isinstance(seen, Look):
        row = {"step": seen.step, "rates": [float(rate) for rate in seen.rates]}
    else:
        row = {"step": seen.step, "reward": float(seen.reward)}
    return json.dumps(row, allow_nan=False) + "\n"


def parse(text: str, where: str) -> Look | Logged:
    """The observation of one line.

    Raises:
      ValueError: It is none; `where` names the line.
    """
    try:
        row = json.loads(text)
        step = row["step"]
        if isinstance(step, bool) or int(step) != step:
            raise TypeError("step is no whole number")
        if "rates" in row:
            rates = tuple(float(rate) for rate in row["rates"])
            if not rates or not all(map(math.isfinite, rates)):
                raise TypeError("rates must be finite numbers, one a problem")
            return Look(int(step), rates)
        return Logged(int(step), float(row["reward"]))
    except (json.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{where} is no observation ({error}): it needs step, and rates or reward: "
            f"{text[:80]!r}"
        ) from None


def read(file: Path, last: int | None = None) -> list[Look | Logged]:
    """The observations of a file, up to and with step `last`; a torn last line is dropped."""
    if not file.is_file():
        return []
    lines = file.read_text().split("\n")[:-1]
    found = [parse(text, f"{file}, line {i}") for i, text in enumerate(lines, 1) if text.strip()]
    return [seen for seen in found if last is None or seen.step <= last]


def write(file: Path, observations: Iterable[Look | Logged]) -> None:
    """Replace the file at once."""
    part = file.with_suffix(".part")
    part.write_text("".join(map(line, observations)))
    part.replace(file)
