"""Read rows from files and from the Hugging Face hub. Every error is one line with the fix."""

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

Rows = Iterable[Any]

_TEXT = (".json", ".jsonl", ".json.gz", ".jsonl.gz")


def read_file(path: str | Path) -> list[Any]:
    """Read the rows of a file. Its suffix says whether it is JSON lines, a JSON list or Parquet.

    Raises:
      ValueError: The suffix is unknown, or the file is truncated or in another format.
      FileNotFoundError: There is no such file.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name one file of it, or use hf:{path}:SPLIT")
    if path.name.endswith(".parquet"):
        return _read_parquet(path)
    if not path.name.endswith(_TEXT):
        raise ValueError(f"{path}: the name must end in .parquet, {', '.join(_TEXT)}")
    data = path.read_bytes()
    if path.suffix == ".gz":
        try:
            data = gzip.decompress(data)
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"{path}: cut, or no gzip file: {error}") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8: {error}") from error
    if path.name.removesuffix(".gz").endswith(".json"):
        rows: list[Any] = _parse(text, str(path))
        if not isinstance(rows, list):
            raise ValueError(f"{path}: a .json file must hold a list of rows")
        return rows
    # `splitlines` would also split at U+2028, which JSON allows inside a string.
    lines = enumerate(text.split("\n"), 1)
    return [_parse(line, f"{path}, line {number}") for number, line in lines if line.strip()]


def read_hub(rest: str) -> Rows:
    """Read the rows of `ORG/NAME@REVISION:CONFIG:SPLIT` from the hub, its cache, or a folder.

    Raises:
      ValueError: The hub cannot be reached, or has no such rows.
      ImportError: datasets is not installed.
    """
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise ImportError(
            "an hf: source needs datasets: pip install 'selfreg[datasets]'"
        ) from error
    name, *config, split = rest.split(":")
    name, _, revision = name.partition("@")
    options = {"revision": revision} if revision else {}
    try:
        rows: Rows = load_dataset(name, *config, split=split, **options)
        return rows
    except Exception as error:  # the library and its HTTP clients raise errors of many types
        raise ValueError(f"hf:{rest} cannot be read: {_explain(error)}") from error


def rename_columns(rows: Rows, columns: Mapping[str, str]) -> Iterator[Any]:
    """Yield rows with renamed columns.

    Args:
      rows: JSON objects.
      columns: The new name of each column, by its old name; "" drops the column.

    Raises:
      ValueError: A row lacks a column, or already has a column of the new name.
    """
    for number, row in enumerate(rows, 1):
        if not isinstance(row, Mapping):
            yield row
            continue
        if missing := [name for name in columns if name not in row]:
            raise ValueError(f"row {number} has no column {missing[0]!r}; it has {', '.join(row)}")
        kept = {key: value for key, value in row.items() if key not in columns}
        for name, new in columns.items():
            if new in kept:
                raise ValueError(f"row {number} has a column {new!r} already: drop it ({new}=)")
            if new:
                kept[new] = row[name]
        yield kept


def _read_parquet(path: Path) -> list[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        rows: list[Any] = pq.read_table(path).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: cut, or no Parquet file: {_first_line(error)}") from error
    return rows


def _parse(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{place}: not JSON: {error}") from error
    except RecursionError as error:
        raise ValueError(f"{place}: JSON of too many levels") from error


def _explain(error: Exception) -> str:
    """Return the error as one line, with advice for the common ones."""
    line = _first_line(error)
    said = line.lower()
    hint = ""
    if "scripts are no longer supported" in said or "trust_remote_code" in said:
        hint = (
            " (the data set is a program, which is not run; download its files and use jsonl: or "
            "parquet:)"
        )
    elif any(words in said for words in ("on the hub", "offline", "connect")):
        hint = " (the hub cannot be reached, and the data set is not in the cache)"
    return f"{type(error).__name__}: {line}{hint}"


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
