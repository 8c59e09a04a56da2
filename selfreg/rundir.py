"""The run folder: what its files are called and how they are written and read. No jax.

    config.json        the resolved config
    manifest.json      versions, git state, devices, seeds, grader layers
    metrics.jsonl      one StepRecord a line
    campaigns.jsonl    one CampaignSummary a line, when a campaign has ended
    completions/       one parquet file a step and stream: prompts, programs, rewards, outcomes
    checkpoints/       Orbax, one folder a campaign
    tensorboard/       the metrics again, for TensorBoard
    trajectory.png, report.html, verdict.json

A line is written whole or, if the process dies in the middle, is the last one and is dropped when
the file is read.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from selfreg.records import Checkpoint, Group, PanelScore, Plan, StepRecord, Trace, to_json

CONFIG, MANIFEST = "config.json", "manifest.json"
METRICS, CAMPAIGNS = "metrics.jsonl", "campaigns.jsonl"
COMPLETIONS, CHECKPOINTS, TENSORBOARD = "completions", "checkpoints", "tensorboard"


@dataclass(frozen=True, slots=True)
class CampaignSummary:
    """What is kept of a finished campaign beside its step records.

    Attributes:
      campaign: From 0.
      plan: What the control ordered.
      peak_step: Where the control's metric peaked first.
      end_step: The last step, which is also how many updates were made.
      scores: The report panel's scores of the policy at "start", "peak" and "end".
      kept: What the control hands on, from where the next campaign starts or would start; None for
        the chain's initial policy.
      control_state: The between-campaign control's state after this campaign, as JSON data.
    """

    campaign: int
    plan: Plan
    peak_step: int
    end_step: int
    scores: Mapping[str, PanelScore]
    kept: Checkpoint | None
    control_state: Any


def write_json(file: Path, value: Any) -> None:
    """Replace the file at once: a reader sees the old text or the new one, never a part."""
    part = file.with_suffix(".part")
    part.write_text(json.dumps(to_json(value), indent=2) + "\n")
    os.replace(part, file)


def append_line(file: Path, value: Any) -> None:
    """Add one JSON line. Non-finite numbers are refused: JSON has none."""
    line = json.dumps(to_json(value), allow_nan=False)
    with file.open("a") as opened:
        opened.write(line + "\n")


def read_lines(file: Path) -> list[dict[str, Any]]:
    """The whole lines of a JSONL file; a torn last line is dropped. No file: no lines.

    Raises:
      ValueError: A line that is whole does not parse.
    """
    if not file.exists():
        return []
    lines = file.read_text().split("\n")[:-1]
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{file}, line {number} is not JSON ({error}): {line[:80]!r}"
            ) from None
    return rows


def keep_lines(file: Path, rows: Iterable[Any]) -> None:
    """Replace a JSONL file by these rows at once."""
    part = file.with_suffix(".part")
    part.write_text("".join(json.dumps(to_json(row), allow_nan=False) + "\n" for row in rows))
    os.replace(part, file)


def read_records(folder: Path) -> list[StepRecord]:
    """All step records of a run, in order."""
    return [StepRecord(**row) for row in read_lines(folder / METRICS)]


def read_summaries(folder: Path) -> list[CampaignSummary]:
    """The summaries of a run's finished campaigns, in order."""
    return [_summary(row) for row in read_lines(folder / CAMPAIGNS)]


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested config by its dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, name + ".") if isinstance(value, Mapping) else {name: value}
    return flat


def place_of(summary: CampaignSummary, step: int) -> str:
    """Under which name a step of a campaign has its report score: "end" or "peak".

    Raises:
      ValueError: That step was neither.
    """
    if step == summary.end_step:
        return "end"
    if step == summary.peak_step:
        return "peak"
    raise ValueError(f"campaign {summary.campaign}: step {step} is neither its peak nor its end")


def traces(records: Sequence[StepRecord], metric: str) -> list[Trace]:
    """Records grouped into campaigns."""
    numbers = sorted({record.campaign for record in records})
    return [Trace(n, metric, tuple(r for r in records if r.campaign == n)) for n in numbers]


def _summary(row: dict[str, Any]) -> CampaignSummary:
    plan = dict(row["plan"])
    plan["start"] = _checkpoint(plan["start"])
    scores = {
        name: PanelScore(tuple(s["problem_ids"]), np.array(s["pass_rates"]), s["samples"])
        for name, s in row["scores"].items()
    }
    kept = _checkpoint(row["kept"])
    return CampaignSummary(**{**row, "plan": Plan(**plan), "scores": scores, "kept": kept})


def _checkpoint(row: dict[str, int] | None) -> Checkpoint | None:
    return Checkpoint(**row) if row else None


def checkpoint_folder(checkpoints: Path, campaign: int) -> Path:
    """Where the checkpoints of a campaign lie, one folder a step, below a run's `checkpoints`."""
    return checkpoints.absolute() / f"campaign_{campaign:02d}"


def saved_steps(checkpoints: Path, campaign: int) -> list[int]:
    """The steps of a campaign whose checkpoints are whole on disk, in order."""
    places = checkpoint_folder(checkpoints, campaign).glob("*")
    # Orbax names one so only when it is whole.
    return sorted(int(place.name) for place in places if place.name.isdigit())


def completions_file(folder: Path, campaign: int, step: int, stream: str) -> Path:
    """Where the completions of one step and stream (train, panel, report) lie."""
    return folder / COMPLETIONS / f"campaign_{campaign:02d}_step_{step:04d}_{stream}.parquet"


def write_completions(file: Path, groups: Sequence[Group]) -> None:
    """One row a completion: problem, sample, prompt and completion ids, text, program, outcome."""
    columns: dict[str, list[Any]] = {}
    for group in groups:
        rows = zip(group.rollouts, group.programs, group.grades, strict=True)
        for sample, (rollout, program, grade) in enumerate(rows):
            row = {
                "problem_id": group.problem.id,
                "spec": group.problem.spec,
                "sample": sample,
                "prompt_ids": rollout.prompt_ids,
                "completion_ids": rollout.completion_ids,
                "logprobs": rollout.logprobs,
                "text": rollout.text,
                "program": program,
                "finish_reason": rollout.finish_reason.value,
                "outcome": grade.outcome.value,
                "reward": grade.reward,
                "grade_time_s": grade.time_s,
                "grade_peak_mb": grade.peak_mb,
                "grade_detail": grade.detail,
            }
            if rollout.alter_ids is not None and rollout.alter_logprobs is not None:
                row["alter_ids"] = rollout.alter_ids.tolist()
                row["alter_logprobs"] = rollout.alter_logprobs.tolist()
            for name, value in row.items():
                columns.setdefault(name, []).append(value)
    file.parent.mkdir(exist_ok=True)
    part = file.with_suffix(".part")
    pq.write_table(pa.table(columns), part)
    os.replace(part, file)
