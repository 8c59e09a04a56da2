"""Read and write observations as lines of JSON, so that a stopped guard resumes from its own file.

    {"step": 40, "rates": [0.25, 1.0, 0.5]}     panel: mean reward of each problem
    {"step": 41, "reward": 0.53}                mean reward of a training step

Any program can write this file. Additional keys are ignored.
"""

import json
import math
from collections.abc import Iterable
from pathlib import Path

from selfreg.guard.records import Logged, Look


def line(seen: Look | Logged) -> str:
    """Format an observation as one line, newline included."""
    if isinstance(seen, Look):
        row = {"step": seen.step, "rates": [float(rate) for rate in seen.rates]}
    else:
        row = {"step": seen.step, "reward": float(seen.reward)}
    return json.dumps(row, allow_nan=False) + "\n"


def parse(text: str, where: str) -> Look | Logged:
    """Parse one line into an observation.

    Raises:
      ValueError: The line is not an observation; the message starts with `where`.
    """
    try:
        row = json.loads(text)
        step = row["step"]
        if isinstance(step, bool) or int(step) != step:
            raise TypeError("step must be a whole number")
        if "rates" in row:
            rates = tuple(float(rate) for rate in row["rates"])
            if not rates or not all(map(math.isfinite, rates)):
                raise TypeError("rates must be finite numbers, one per problem")
            return Look(int(step), rates)
        return Logged(int(step), float(row["reward"]))
    except (json.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{where} is not an observation ({error}): it needs step and either rates or reward: "
            f"{text[:80]!r}"
        ) from None


def read(file: Path, last: int | None = None) -> list[Look | Logged]:
    """Read the observations of a file up to and including step `last`.

    A last line without its newline was cut off by a stop, and is dropped.
    """
    if not file.is_file():
        return []
    lines = file.read_text().split("\n")[:-1]
    found = [parse(text, f"{file}, line {i}") for i, text in enumerate(lines, 1) if text.strip()]
    return [seen for seen in found if last is None or seen.step <= last]


def write(file: Path, observations: Iterable[Look | Logged]) -> None:
    """Replace the file atomically."""
    part = file.with_suffix(".part")
    part.write_text("".join(map(line, observations)))
    part.replace(file)
