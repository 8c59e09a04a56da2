"""Read JSON and text tables. The content decides the format; the file name only breaks ties.

trainer state     {"log_history": [rows]}
JSON              a list of rows; a dict of lists; TensorBoard's [[time, step, value], ...]
JSON lines        one row per line; other lines are dropped and counted
CSV               commas, semicolons, tabs or bars; lines that begin with # are comments
"""

import csv
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from selfreg.integrations.audit.source import Source
from selfreg.integrations.audit.table import Builder, Table, to_number

_DELIMITERS = ",;\t|"
_SETTINGS = ("max_steps", "logging_steps", "num_train_epochs", "train_batch_size")
_MONITOR = ["r", "l", "t"]  # Stable-Baselines' monitor.csv: reward, length and time of an episode
_DECIMAL_COMMA = re.compile(r"-?\d+,\d+")
_NOT_A_RUN = (
    "is a run of selfreg. Use python -m selfreg.analysis, which judges it on its report panel"
)


def read_json(source: Source) -> Table | None:
    """Read a JSON document or JSON lines; return None if the file is neither.

    Raises:
      ValueError: The file is JSON, but not a log.
    """
    first = source.head.decode(source.encoding, errors="replace").lstrip("\ufeff \t\r\n")[:1]
    if first not in ("{", "["):
        return None
    lines = source.lines()
    start = "".join(itertools.islice((line for line in lines if line.strip()), 1))
    row = _loads(start)
    if row is not _BAD and next(lines, None) is not None:
        return _read_lines(source)
    content = _loads(source.text())
    if content is _BAD:
        return _read_lines(source) if row is not _BAD or source.name.endswith("jsonl") else None
    if isinstance(content, dict) and row is not _BAD and _own_run(content):
        raise ValueError(f"{source.path} {_NOT_A_RUN}")
    table = _document(content)
    if table is None:
        shown = (
            ", ".join(map(str, content))[:200] if isinstance(content, dict) else repr(content)[:80]
        )
        raise ValueError(
            f"{source.path} is JSON, but neither a trainer_state.json with a log_history, nor a "
            f"list of rows, nor a dict of lists; it holds {shown or 'nothing'}"
        )
    return table


class _Bad:
    """A marker for text that is not JSON, as every JSON value could be content."""


_BAD = _Bad()


def _loads(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return _BAD


def _own_run(row: Mapping[str, Any]) -> bool:
    return {"campaign", "metrics"} <= row.keys()


def _read_lines(source: Source) -> Table:
    rows = Builder()
    last = ""
    for line in source.lines():
        if not line.strip():
            continue
        last = ""
        row = _loads(line)
        if isinstance(row, dict):
            if not rows.rows and _own_run(row):
                raise ValueError(f"{source.path} {_NOT_A_RUN}")
            rows.add(row)
        else:
            rows.dropped["lines that are not JSON objects"] += 1
            last = line
    notes = ["its last line is cut off"] if last.lstrip().startswith("{") else []
    return rows.table("JSON lines", notes=notes)


def _document(content: Any) -> Table | None:
    if isinstance(content, list):
        if content and all(isinstance(row, dict) for row in content):
            return _table("JSON", content)
        if content and all(isinstance(row, list) and len(row) == 3 for row in content):
            rows = ({"Wall time": a, "Step": b, "Value": c} for a, b, c in content)
            return _table("TensorBoard JSON", rows)
        return None
    if not isinstance(content, dict):
        return None
    if isinstance(content.get("log_history"), list):
        history = [row for row in content["log_history"] if isinstance(row, dict)]
        facts = {
            name: number
            for name in _SETTINGS
            if (number := to_number(content.get(name))) is not None
        }
        return _table("trainer state", history, facts)
    if isinstance(content.get("columns"), list) and isinstance(content.get("data"), list):
        names = content["columns"]
        return _table(
            "JSON", (dict(zip(names, row, strict=False)) for row in content["data"]
                     if isinstance(row, list)),
        )  # fmt: skip
    lists = {name: value for name, value in content.items() if isinstance(value, list)}
    plain = {n: v for n, v in lists.items() if v and not isinstance(v[0], (dict, list))}
    if plain and len(plain) * 2 >= len(content):
        longest = max(map(len, plain.values()))
        return _table(
            "JSON", ({n: v[i] for n, v in plain.items() if i < len(v)} for i in range(longest))
        )
    dicts = {name: value for name, value in content.items() if isinstance(value, dict)}
    if (
        dicts
        and len(dicts) == len(content)
        and all(
            key.lstrip("-").isdigit()
            for value in dicts.values()
            for key in itertools.islice(value, 3)
        )
    ):  # pandas: {"reward": {"0": 0.5, ...}}
        keys = dict.fromkeys(key for value in dicts.values() for key in value)
        return _table("JSON", ({n: v[key] for n, v in dicts.items() if key in v} for key in keys))
    for value in content.values():  # {"history": [rows]}
        if isinstance(value, list) and len(value) > 1 and isinstance(value[0], dict):
            return _table("JSON", (row for row in value if isinstance(row, dict)))
    return None


def _table(form: str, rows: Iterable[Any], facts: Mapping[str, float] | None = None) -> Table:
    builder = Builder()
    for row in rows:
        builder.add(row)
    return builder.table(form, facts)


def read_csv(source: Source) -> Table | None:
    """Read a text table with a header; return None if the file does not look like one."""
    named = source.name.endswith((".csv", ".tsv"))
    # Without a .csv or .tsv name, the first lines must agree on the number of cells.
    sample = [line for line in itertools.islice(source.lines(), 20) if _is_data(line)]
    if not sample:
        return None
    delimiter = _delimiter(sample, named)
    if delimiter is None:
        return None
    kept = (line + "\n" for line in source.lines() if _is_data(line))
    try:
        return _rows_of(csv.reader(kept, delimiter=delimiter, strict=False), delimiter)
    except csv.Error as error:
        raise ValueError(f"{source.path} is not valid CSV: {error}") from None


def _is_data(line: str) -> bool:
    return bool(line.strip()) and not line.startswith("#")


def _delimiter(sample: list[str], named: bool) -> str | None:
    def cells(line: str, delimiter: str) -> int:
        return len(next(csv.reader([line], delimiter=delimiter), []))

    counts = {d: [cells(line, d) for line in sample] for d in _DELIMITERS}
    best = max(counts, key=lambda d: (counts[d][0] == max(counts[d]), min(counts[d][:2]), d == ","))
    if named:
        return best if counts[best][0] > 1 else ","
    even = len(sample) > 1 and min(counts[best]) == max(counts[best]) > 1
    header = re.split(re.escape(best), sample[0])
    words = [cell.strip().strip('"') for cell in header]
    if not even or any(to_number(word) is not None or not word for word in words[1:]):
        return None
    second = next(csv.reader([sample[1]], delimiter=best), [])
    return best if any(to_number(cell) is not None for cell in second) else None


def _rows_of(reader: Iterator[list[str]], delimiter: str) -> Table:
    header = [cell.strip() for cell in next(reader)]
    rows, notes = Builder(), []
    if header and all(to_number(cell) is not None for cell in header):
        first, header = header, [f"column {i}" for i in range(1, len(header) + 1)]
        notes.append("it has no header: its columns are numbered from 1")
        rows.add(dict(zip(header, first, strict=True)))
    comma = delimiter != ","
    for cells in reader:
        if cells == header:
            rows.dropped["repeated headers"] += 1  # a restarted run appends its header again
            continue
        if len(cells) > len(header):
            rows.dropped["rows with more cells than the header"] += 1
            continue
        if comma:
            cells = [
                c.replace(",", ".") if _DECIMAL_COMMA.fullmatch(c.strip()) else c for c in cells
            ]
        rows.add(dict(zip(header, cells, strict=False)))
    form = "CSV"
    if header == _MONITOR:
        form, notes = "Stable-Baselines monitor", ["each row is an episode"]
    return rows.table(form, notes=notes)
