"""The command line: every run below a folder, judged and compared.

    python -m selfreg.analysis --runs=runs/tiny

Writes each run's report where it is missing or older than the run, and into --out the combined
trajectory.png, comparison.md and report.html.
"""

import sys
from pathlib import Path

from absl import app, flags
from rich.console import Console

from selfreg.analysis.overview import compare_folder

_RUNS = flags.DEFINE_string("runs", None, "A folder; every run at or below it is taken.")
_OUT = flags.DEFINE_string(
    "out", None, "Where the comparison goes; the folder of --runs by default."
)


def main(_: list[str]) -> None:
    """Compare; a user's mistake ends in one line, not in a traceback."""
    try:
        if _RUNS.value is None:
            raise ValueError("--runs is missing: name a folder, such as --runs=runs/tiny")
        folder = Path(_RUNS.value)
        compare_folder(folder, Path(_OUT.value or folder), Console())
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    app.run(main)
