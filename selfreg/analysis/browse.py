"""The completions that a report carries for its browser, chosen until a number of bytes is full.

They travel as lines of JSON, deflated, in base64: an alphabet in which no markup can be written.
A line is [campaign, step, stream, strings, rows]. `strings` are those that no line before had. A
row refers to the strings of all lines by index: those of `FIELDS`, then the problem's spec.
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
    """What a page carries.

    Attributes:
      payload: Base64 of the deflated lines; "" when no completions were kept.
      shown: By stream, how many completions it holds.
      kept: By stream, how many completions the run folder holds.
    """

    payload: str
    shown: Mapping[str, int]
    kept: Mapping[str, int]


class _Part(NamedTuple):
    """Some samples, from `first` to before `last`, of each problem in one file."""

    file: Path
    campaign: int
    step: int
    stream: str
    first: int
    last: int


def select(run: Run, budget_bytes: int) -> Selection:
    """Choose completions, those first that say most, and pack them.

    In this order: sample 0 of every panel at each campaign's start, peak and end; 4 samples of each
    training group; the other samples at start, peak and end; the panel at the other steps; the rest
    of the training samples. A part that does not fit is left out, until 8 in a row did not. Where
    not all of one kind fit, their steps are spread over the run. Texts above 6,000 characters lose
    their middle.

    Args:
      run: The run.
      budget_bytes: The most that the payload may be long.
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
    """What could be shown, in order of worth."""
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
    """Start, peak and end; of a campaign that is under way, its start and its last step."""
    if trace.campaign < len(run.summaries):
        return {0, trace.peak_step, trace.end_step}
    return {0, trace.end_step}


def _spread(values: Sequence[Any]) -> list[Any]:
    """An order whose every beginning is spread over the whole: by the index's bits, reversed."""
    return [values[i] for i in sorted(range(len(values)), key=lambda i: f"{i:032b}"[::-1])]


def _code(text: str, strings: Mapping[str, int], fresh: dict[str, int]) -> int:
    """The index of a text; a new one joins `fresh`."""
    if text in strings:
        return strings[text]
    return fresh.setdefault(text, len(strings) + len(fresh))


def _read(part: _Part) -> list[list[str]]:
    """The texts of a part's completions, in the order of FIELDS and then the problem's spec."""
    names = [*FIELDS, "spec"]  # older runs did not keep it
    columns = [name for name in pq.read_schema(part.file).names if name in names]
    rows = pq.read_table(part.file, columns=columns).to_pylist()
    chosen = [row for row in rows if part.first <= row["sample"] < part.last]
    for row in chosen:
        if row["text"].strip() == row["program"].strip():
            row["text"] = ""
    return [[_fit(str(row.get(name, ""))) for name in names] for row in chosen]


def _fit(text: str) -> str:
    """A text without what a reader would not see, and without its middle where it is long."""
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
