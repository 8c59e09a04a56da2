"""The per-step metrics that other trainers leave behind, as one table.

trainer_state.json         TRL and transformers: log_history
*.jsonl                    one object a line: W&B history, verl's file logger, any other
*.csv                      W&B exports and histories, any other
events.out.tfevents.*      TensorBoard, of any of them
any other text             the console of TRL, verl or OpenRLHF
a folder                   the trainer state or the event files in it
"""

import ast
import csv
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

# The mean reward of a step's own samples: verl, then TRL, OpenRLHF and W&B, then selfreg.
REWARDS = (
    "critic/score/mean", "critic/rewards/mean", "train/reward", "reward", "objective/scores",
    "pass_rate",
)  # fmt: skip
STEPS = (
    "step", "Step", "_step", "global_step", "train/global_step", "training/global_step",
    "trainer/global_step",
)  # fmt: skip
# What a collapse may show in first, by each trainer's name for it.
INDICATORS = {
    "entropy": ("entropy", "actor/entropy", "actor/entropy_loss", "policy/entropy_avg"),
    "KL": ("kl", "objective/kl", "actor/kl_loss", "actor/ppo_kl", "approx_kl", "k3_kl"),
    "gradient norm": ("grad_norm", "actor/grad_norm"),
    "length": ("completions/mean_length", "response_length/mean", "response_length"),
    "cut at the limit": (
        "completions/clipped_ratio", "response_length/clip_ratio", "truncated", "clip_ratio",
    ),
}  # fmt: skip

_VERL = re.compile(r"step:(\d+) - (.*)")
_VERL_VALUE = re.compile(r"([^\s:]+):(?:np\.\w+\()?([-+]?(?:\d[\d.]*(?:[eE][-+]?\d+)?|nan|inf))")
_OPENRLHF = re.compile(r"Global step (\d+)[^:{]*: (\{.*\})")
_DICT = re.compile(r"\{'.*?\}")


@dataclass(frozen=True, slots=True)
class Log:
    """One metric of a run over its steps, and what was logged beside it.

    Attributes:
      file: Where it was read.
      format: In which form.
      column: The metric.
      steps: [n], strictly increasing.
      values: float64 [n], as logged.
      indicators: Leading indicators: our name -> (their name, float64 [n], NaN where absent).
    """

    file: Path
    format: str
    column: str
    steps: np.ndarray
    values: np.ndarray
    indicators: Mapping[str, tuple[str, np.ndarray]]


def read_log(file: Path, column: str | None = None, step_column: str | None = None) -> Log:
    """Read one run's log.

    Of a step that was logged twice, as a resumed run does, the later counts. Without a step column
    steps are counted from 0.

    Args:
      file: A file or folder, as above.
      column: The metric; None: the trainer's name for the mean reward.
      step_column: Where the step stands; None: the trainer's name for it.

    Raises:
      ValueError: It cannot be read, or has no such metric; the message is one line.
    """
    form, rows = _read(file)
    names = sorted({name for row in rows for name in row})
    column = column or _find(names, REWARDS)
    if column is None or column not in names:
        wanted = f"no {column!r}" if column else f"none of {', '.join(REWARDS)}"
        shown = ", ".join(names[:30]) + (", ..." if len(names) > 30 else "")
        raise ValueError(f"{file} has {wanted}: name one with --column, of {shown or 'no numbers'}")
    if step_column is not None and step_column not in names:
        raise ValueError(f"{file} has no column {step_column!r} for the step")
    at = step_column or _find(names, STEPS)
    chosen = [row for row in rows if column in row]
    by_step = {row.get(at, i) if at else i: row for i, row in enumerate(chosen)}
    steps = sorted(by_step)
    table = [by_step[step] for step in steps]
    indicators = {}
    for name, theirs in INDICATORS.items():
        found = _find(names, [t for own in theirs for t in (own, f"train/{own}")])
        if found is not None and found != column:
            indicators[name] = (found, np.array([row.get(found, math.nan) for row in table]))
    values = np.array([row[column] for row in table])
    return Log(file, form, column, np.array(steps), values, indicators)


def _find(names: Iterable[str], wanted: Iterable[str]) -> str | None:
    """The first wanted name that is there, alone or as W&B exports it: "run - name"."""
    there = set(names)
    for name in wanted:
        if name in there:
            return name
        exported = sorted(n for n in there if n.endswith(f" - {name}"))
        if len(exported) > 1:
            raise ValueError(
                f"{len(exported)} runs have {name!r}: choose one with --column, of "
                f"{', '.join(exported)}"
            )
        if exported:
            return exported[0]
    return None


def _read(file: Path) -> tuple[str, list[dict[str, float]]]:
    if file.is_dir():
        return _read_folder(file)
    if not file.is_file():
        raise ValueError(f"{file}: there is no such file")
    if "tfevents" in file.name:
        return "TensorBoard", _by_step(_read_events(file))
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{file} is not text, and no TensorBoard event file by its name") from None
    if file.suffix == ".csv":
        return "CSV", [_numbers(row) for row in csv.DictReader(text.splitlines())]
    if file.suffix == ".json":
        return _read_json(file, text)
    if file.suffix in (".jsonl", ".ndjson"):
        return "JSON lines", _read_lines(file, text)
    form, rows = _read_console(text)
    if not rows:
        raise ValueError(
            f"{file} holds no metrics of TRL, verl or OpenRLHF; readable are trainer_state.json, "
            ".jsonl, .csv, TensorBoard event files and those trainers' console output"
        )
    return form, rows


def _read_events(file: Path) -> dict[str, dict[int, float]]:
    # Only now: its library loads torch where there is one, two seconds that no other log needs.
    from selfreg.audit.events import read_events

    return read_events(file)


def _read_folder(folder: Path) -> tuple[str, list[dict[str, float]]]:
    states = [*folder.glob("trainer_state.json"), *folder.glob("checkpoint-*/trainer_state.json")]
    if states:  # each holds the whole history until it was written
        latest = max(states, key=lambda file: len(file.read_text()))
        return _read_json(latest, latest.read_text())
    events = sorted(folder.rglob("*tfevents*"))
    if not events:
        raise ValueError(f"{folder} holds neither a trainer_state.json nor TensorBoard event files")
    scalars: dict[str, dict[int, float]] = {}
    for file in events:
        for tag, values in _read_events(file).items():
            scalars.setdefault(tag, {}).update(values)
    return "TensorBoard", _by_step(scalars)


def _by_step(scalars: Mapping[str, Mapping[int, float]]) -> list[dict[str, float]]:
    rows: dict[int, dict[str, float]] = {}
    for tag, values in scalars.items():
        for step, value in values.items():
            if math.isfinite(value):
                rows.setdefault(step, {"step": float(step)})[tag] = value
    return [rows[step] for step in sorted(rows)]


def _read_json(file: Path, text: str) -> tuple[str, list[dict[str, float]]]:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is not JSON: {error}") from None
    if isinstance(content, dict) and isinstance(content.get("log_history"), list):
        return "trainer state", [_numbers(row) for row in content["log_history"]]
    if isinstance(content, list) and all(isinstance(row, dict) for row in content):
        return "JSON", [_numbers(row) for row in content]
    raise ValueError(
        f"{file} is neither a trainer_state.json with a log_history nor a list of rows"
    )


def _read_lines(file: Path, text: str) -> list[dict[str, float]]:
    rows = []
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line) if line.strip() else {}
        except json.JSONDecodeError as error:
            if number == len(lines):  # cut while it was written
                break
            raise ValueError(f"{file}, line {number} is not JSON: {error}") from None
        if not isinstance(row, dict):
            raise ValueError(f"{file}, line {number} is no JSON object: {line[:60]!r}")
        if {"campaign", "metrics"} <= row.keys():
            raise ValueError(
                f"{file} is a run of selfreg, which has better than this: python -m "
                "selfreg.analysis judges it on its report panel"
            )
        rows.append(_numbers(row))
    return rows


def _read_console(text: str) -> tuple[str, list[dict[str, float]]]:
    rows: dict[str, list[dict[str, float]]] = {"verl": [], "OpenRLHF": [], "TRL": []}
    for line in re.split(r"[\r\n]+", text):  # a progress bar rewrites its line
        if found := _VERL.search(line):
            pairs = _VERL_VALUE.findall(found[2])
            rows["verl"].append(_numbers({"step": found[1], **dict(pairs)}))
        elif found := _OPENRLHF.search(line):
            rows["OpenRLHF"].append(_numbers({"step": found[1], **_literal(found[2])}))
        elif found := _DICT.search(line):
            rows["TRL"].append(_numbers(_literal(found[0])))
    form = max(rows, key=lambda name: len(rows[name]))
    return form, rows[form]


def _literal(text: str) -> dict[str, Any]:
    try:
        value = ast.literal_eval(re.sub(r"\b(nan|inf)\b", "None", text))
    except (ValueError, SyntaxError):
        return {}
    return value if isinstance(value, dict) else {}


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a row, nested ones under joined names; verl's "data" adds no name."""
    found: dict[str, float] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            inner = _numbers(value)
            found |= inner if name == "data" else {f"{name}/{k}": v for k, v in inner.items()}
            continue
        try:
            number = float(value)
        except (TypeError, ValueError):
            continue
        if math.isfinite(number):
            found[name] = number
    return found
