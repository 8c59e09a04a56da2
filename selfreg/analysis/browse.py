"""Choose the completions that a report embeds for its browser, within a budget of bytes.

They are stored as lines of JSON, deflated and encoded in base64, so that no completion can inject
markup. A line is [campaign, step, stream, strings, rows]. `strings` holds the texts that no earlier
line has. A row lists indices into the strings of all lines: the `FIELDS` and then the problem's
spec.
"""

import base64
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from selfreg.analysis.load import Run
from selfreg.analysis.page import visible
from selfreg.run.records import Trace
from selfreg.run.rundir import completions_file

LONGEST = 6_000
TRAIN_SAMPLES = 4
MISSES = 8
FIELDS = ("problem_id", "sample", "outcome", "finish_reason", "grade_detail", "program", "text")


@dataclass(frozen=True, slots=True)
class Selection:
    """The completions of one page.

    Attributes:
      payload: Base64 of the deflated lines; "" if the run kept no completions.
      shown: Number of completions in the payload, by stream.
      kept: Number of completions in the run folder, by stream.
    """

    payload: str
    shown: Mapping[str, int]
    kept: Mapping[str, int]


class _Part(NamedTuple):
    """Samples `first` to `last` (excluded) of each problem in one file."""

    file: Path
    campaign: int
    step: int
    stream: str
    first: int
    last: int


def select(run: Run, budget_bytes: int) -> Selection:
    """Choose and pack completions, the most informative first.

    The order is: sample 0 of every panel at each campaign's start, peak and end; 4 samples of each
    training group; the other samples at start, peak and end; the panel at the other steps; the
    remaining training samples. A part that does not fit is skipped, and the search ends after 8
    skipped parts in a row. If only some parts of a kind fit, their steps are spread over the run.
    Texts longer than 6,000 characters lose their middle.

    Args:
      run: The run.
      budget_bytes: Maximum length of the payload.
    """
    strings: dict[str, int] = {}
    packer, packed = zlib.compressobj(9), b""
    shown: dict[str, int] = {}
    misses = 0
    for part in _parts(run):
        fresh: dict[str, int] = {}
        rows = [[_code(text, strings, fresh) for text in row] for row in _read(part)]
        if not rows:
            continue
        line = json.dumps([part.campaign, part.step, part.stream, list(fresh), rows]) + "\n"
        trial = packer.copy()
        piece = trial.compress(line.encode()) + trial.flush(zlib.Z_SYNC_FLUSH)
        if 4 * (len(packed) + len(piece) + 16) // 3 <= budget_bytes:
            packer, packed, misses = trial, packed + piece, 0
            strings |= fresh
            shown[part.stream] = shown.get(part.stream, 0) + len(rows)
        else:
            misses += 1
        if misses == MISSES:
            break
    payload = base64.b64encode(packed + packer.flush()).decode() if shown else ""
    return Selection(payload, shown, _kept(run))


def _parts(run: Run) -> Iterator[_Part]:
    """List the parts that could be shown, the most informative first."""
    at_places: list[tuple[int, int, str]] = []
    between: list[tuple[int, int, str]] = []
    train: list[tuple[int, int, str]] = []
    for trace in run.traces:
        places = _places(run, trace)
        for record in trace.records:
            where = (trace.campaign, record.step)
            train.append((*where, "train"))
            panels = at_places if record.step in places else between
            panels += [(*where, stream) for stream in _panels(run)]
    every = 1 << 30
    wanted = (
        (at_places, 0, 1),
        (train, 0, TRAIN_SAMPLES),
        (at_places, 1, every),
        (between, 0, every),
        (train, TRAIN_SAMPLES, every),
    )
    for steps, first, last in wanted:
        for campaign, step, stream in _spread(steps):
            file = completions_file(run.folder, campaign, step, stream)
            if file.exists():
                yield _Part(file, campaign, step, stream, first, last)


def _panels(run: Run) -> list[str]:
    names = {name: None for summary in run.summaries for name in summary.capabilities}
    return ["panel", "report", *names]


def _places(run: Run, trace: Trace) -> set[int]:
    """Return the steps of start, peak and end; of an unfinished campaign, its first and last."""
    if trace.campaign < len(run.summaries):
        return {0, trace.peak_step, trace.end_step}
    return {0, trace.end_step}


def _spread(values: Sequence[Any]) -> list[Any]:
    """Reorder values by bit-reversed index, so that every prefix is spread over the whole."""
    return [values[i] for i in sorted(range(len(values)), key=lambda i: f"{i:032b}"[::-1])]


def _code(text: str, strings: Mapping[str, int], fresh: dict[str, int]) -> int:
    """Return the index of a text, and add a new text to `fresh`."""
    if text in strings:
        return strings[text]
    return fresh.setdefault(text, len(strings) + len(fresh))


def _read(part: _Part) -> list[list[str]]:
    """Read the texts of a part's completions: the FIELDS and then the problem's spec."""
    names = [*FIELDS, "spec"]  # older runs did not store the spec
    columns = [name for name in pq.read_schema(part.file).names if name in names]
    rows = pq.read_table(part.file, columns=columns).to_pylist()
    chosen = [row for row in rows if part.first <= row["sample"] < part.last]
    for row in chosen:
        if row["text"].strip() == row["program"].strip():
            row["text"] = ""
    return [[_fit(str(row.get(name, ""))) for name in names] for row in chosen]


def _fit(text: str) -> str:
    """Spell out invisible characters, and cut the middle of a long text."""
    if len(text) > LONGEST:
        half, cut = LONGEST // 2, len(text) - LONGEST
        text = f"{text[:half]}\n[... {cut:,} characters left out of this page ...]\n{text[-half:]}"
    return visible(text)


def _kept(run: Run) -> dict[str, int]:
    counts: dict[str, int] = {}
    for trace in run.traces:
        for record in trace.records:
            for stream in ("train", *_panels(run)):
                file = completions_file(run.folder, trace.campaign, record.step, stream)
                if file.exists():
                    rows = pq.read_metadata(file).num_rows
                    counts[stream] = counts.get(stream, 0) + rows
    return counts
