"""The run folder: what its files are called and how they are written and read. No jax.

    config.json        the resolved config
    manifest.json      versions, git state, devices, seeds, grader layers
    metrics.jsonl      one StepRecord a line
    plans.jsonl        one Planned a line, before a campaign begins
    campaigns.jsonl    one CampaignSummary a line, when a campaign has ended
    memory.json        what the control between campaigns remembers
    completions/       one parquet file a step and stream: prompts, programs, rewards, outcomes
    unjudged.jsonl     one SetAside a line: completions that the grader could not judge
    checkpoints/       Orbax, one folder a campaign
    tensorboard/       the metrics again, for TensorBoard
    trajectory.png, report.html, verdict.json
    chain.log          its output, where a launcher ran it: see selfreg.run.standing

A line is written whole or, if the process dies in the middle, is the last one and is dropped when
the file is read.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from selfreg.run.records import (
    Answer,
    Checkpoint,
    Group,
    PanelScore,
    Plan,
    StepRecord,
    Trace,
    to_json,
)

CONFIG, MANIFEST = "config.json", "manifest.json"
METRICS, PLANS, CAMPAIGNS = "metrics.jsonl", "plans.jsonl", "campaigns.jsonl"
MEMORY = "memory.json"
UNJUDGED = "unjudged.jsonl"
RESTORE_FILE = "Put the file back from a copy, or begin the run in a new folder"
COMPLETIONS, CHECKPOINTS, TENSORBOARD = "completions", "checkpoints", "tensorboard"


@dataclass(frozen=True, slots=True)
class Planned:
    """What a campaign was ordered to do, and what a language model said of it before."""

    campaign: int
    plan: Plan
    answer: Answer | None = None


@dataclass(frozen=True, slots=True)
class SetAside:
    """A completion without a verdict. The run went on without it, and does again when resumed.

    Attributes:
      campaign: From 0.
      step: Where it was drawn.
      stream: "train", or what was measured.
      problem_id: What it was to solve.
      text: The completion.
      program: Its program.
      outcome: "test_error" or "infra_error".
      detail: Why.
    """

    campaign: int
    step: int
    stream: str
    problem_id: str
    text: str
    program: str
    outcome: str
    detail: str


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
      capabilities: The scores on each panel of config.evaluation.capabilities, by its name and
        place.
    """

    campaign: int
    plan: Plan
    peak_step: int
    end_step: int
    scores: Mapping[str, PanelScore]
    kept: Checkpoint | None
    control_state: Any
    capabilities: Mapping[str, Mapping[str, PanelScore]] = field(default_factory=dict)


def write_json(file: Path, value: Any) -> None:
    """Replace the file at once: a reader sees the old text or the new one, never a part."""
    _replace(file, json.dumps(to_json(value), indent=2) + "\n")


def append_line(file: Path, value: Any) -> None:
    """Add one JSON line, in the place of one that is torn. Non-finite numbers are refused."""
    line = json.dumps(to_json(value), allow_nan=False).encode() + b"\n"
    with file.open("a+b") as opened:
        end = opened.seek(0, os.SEEK_END)
        opened.seek(max(0, end - 1))
        if end and opened.read() != b"\n":
            opened.truncate(file.read_bytes().rfind(b"\n") + 1)
        opened.write(line)


def read_lines(file: Path) -> list[dict[str, Any]]:
    """The whole lines of a JSONL file; a torn last line is dropped. No file: no lines.

    Raises:
      ValueError: A line that is whole does not parse.
    """
    if not file.exists():
        return []
    try:
        lines = file.read_bytes().decode().split("\n")[:-1]
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is damaged: {error}") from None
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line, parse_constant=_refuse_constant))
        except ValueError as error:
            raise ValueError(
                f"{file}, line {number} is not JSON ({error}): {line[:80]!r}"
            ) from None
    return rows


def _refuse_constant(word: str) -> None:
    """Refuse NaN and infinities, which no run writes."""
    raise ValueError(f"{word} is no JSON number")


def keep_lines(file: Path, rows: Iterable[Any]) -> None:
    """Replace a JSONL file by these rows at once."""
    _replace(file, "".join(json.dumps(to_json(row), allow_nan=False) + "\n" for row in rows))


def _replace(file: Path, text: str) -> None:
    """Put a new text in a file's place. It is on the disk before it has the file's name."""
    part = file.with_suffix(".part")
    part.write_text(text)
    to_disk(part)
    os.replace(part, file)
    to_disk(file.parent)


def to_disk(place: Path) -> None:
    """Wait until what a file or a folder's list holds would survive a power loss."""
    descriptor = os.open(place, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_records(folder: Path) -> list[StepRecord]:
    """Read all step records of a run, in order.

    Raises:
      ValueError: A line is no record.
    """
    file, records = folder / METRICS, []
    for number, row in enumerate(read_lines(file), 1):
        try:
            place, metrics = (row["campaign"], row["step"]), row["metrics"]
            records.append(StepRecord(*place, metrics, tuple(row.get("rates", ()))))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{file}, line {number} is no step's record: {error!r}") from None
    return records


def check_records(
    folder: Path, records: Sequence[StepRecord], summaries: Sequence[CampaignSummary]
) -> None:
    """Refuse records that were lost, doubled or moved: a run writes every step once, in order.

    Args:
      folder: The run's, for the message.
      records: As `read_records` returned them.
      summaries: As `read_summaries` did.

    Raises:
      ValueError: A step does not follow the one before it, a finished campaign lacks steps, or an
        earlier campaign lacks its summary.
    """
    last = -1, 0
    for number, record in enumerate(records, 1):
        place = record.campaign, record.step
        if place not in ((last[0], last[1] + 1), (last[0] + 1, 0)):
            raise ValueError(
                f"{folder / METRICS}, line {number} is step {place[1]} of campaign {place[0]}, "
                f"after step {last[1]} of campaign {last[0]}: lines were lost, doubled or moved. "
                f"{RESTORE_FILE}"
            )
        last = place
    ends = {record.campaign: record.step for record in records}
    for number, summary in enumerate(summaries):
        if ends.get(number) != summary.end_step:
            raise ValueError(
                f"{folder / METRICS} ends at step {ends.get(number, 'none')} of campaign {number}, "
                f"which {CAMPAIGNS} says ended at step {summary.end_step}. {RESTORE_FILE}"
            )
    if last[0] > len(summaries):
        raise ValueError(
            f"{folder / CAMPAIGNS} has {len(summaries)} campaigns, but {METRICS} has steps of "
            f"campaign {last[0]}. {RESTORE_FILE}"
        )


def with_rates(folder: Path, record: StepRecord) -> StepRecord:
    """A record with the panel's rates by problem, from the panel's completions where it lacks them.

    Runs were once recorded without. Problems are in the order in which they were sampled.
    """
    file = completions_file(folder, record.campaign, record.step, "panel")
    if record.rates or not file.is_file():
        return record
    rows = pq.read_table(file, columns=["problem_id", "reward"]).to_pydict()
    rewards: dict[str, list[float]] = {}
    for problem, reward in zip(rows["problem_id"], rows["reward"], strict=True):
        rewards.setdefault(problem, []).append(reward)
    return replace(record, rates=tuple(sum(own) / len(own) for own in rewards.values()))


def read_summaries(folder: Path) -> list[CampaignSummary]:
    """Read the summaries of a run's finished campaigns, in order.

    Raises:
      ValueError: One is lost, doubled or moved.
    """
    summaries = [_summary(row) for row in read_lines(folder / CAMPAIGNS)]
    for number, summary in enumerate(summaries):
        if summary.campaign != number:
            raise ValueError(
                f"{folder / CAMPAIGNS}, line {number + 1} is of campaign {summary.campaign}. "
                f"{RESTORE_FILE}"
            )
    return summaries


def read_plans(folder: Path) -> list[Planned]:
    """The plans of a run's campaigns, in order; none where an older version wrote the run."""
    return [
        Planned(row["campaign"], _plan(row["plan"]), row["answer"] and Answer(**row["answer"]))
        for row in read_lines(folder / PLANS)
    ]


def read_memory(file: str) -> dict[str, Any]:
    """What a chain's memory.json holds; nothing where no file is named.

    Raises:
      ValueError: It cannot be read, or is no JSON object.
    """
    if not file:
        return {}
    try:
        memory = json.loads(Path(file).read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"config.control.memory={file!r} cannot be read: {error}") from None
    if not isinstance(memory, dict):
        raise ValueError(f"config.control.memory={file!r} holds no JSON object")
    return memory


def read_updates(folder: str) -> tuple[int, ...]:
    """How many updates each campaign of a finished run made; none where no folder is named.

    Raises:
      ValueError: There is no such run, or it has not finished.
    """
    if not folder:
        return ()
    made = tuple(summary.end_step for summary in read_summaries(Path(folder)))
    config = Path(folder) / CONFIG
    if not config.is_file() or len(made) < json.loads(config.read_text())["campaigns"]:
        raise ValueError(
            f"config.control.match_updates_of={folder!r} is no finished run "
            f"({len(made)} campaigns have ended there)"
        )
    return made


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


def trace_of(records: Iterable[StepRecord], metric: str, summary: CampaignSummary) -> Trace:
    """The trace of a finished campaign, capabilities included, as its control saw it."""
    own = tuple(record for record in records if record.campaign == summary.campaign)
    return Trace(summary.campaign, metric, own, capabilities_by_place(summary.capabilities))


def capabilities_by_place(
    capabilities: Mapping[str, Mapping[str, PanelScore]],
) -> dict[str, dict[str, float]]:
    """The scores that a control sees: place -> name -> pass@1."""
    places = {place: None for scores in capabilities.values() for place in scores}
    return {
        place: {name: scores[place].pass_at_1 for name, scores in capabilities.items()}
        for place in places
    }


def _summary(row: dict[str, Any]) -> CampaignSummary:
    capabilities = {name: _scores(s) for name, s in row.get("capabilities", {}).items()}
    read = {
        "plan": _plan(row["plan"]),
        "scores": _scores(row["scores"]),
        "kept": _checkpoint(row["kept"]),
        "capabilities": capabilities,
    }
    return CampaignSummary(**{**row, **read})


def _plan(row: dict[str, Any]) -> Plan:
    return Plan(**{**row, "start": _checkpoint(row["start"])})


def _scores(row: dict[str, Any]) -> dict[str, PanelScore]:
    return {
        name: PanelScore(
            tuple(s["problem_ids"]), np.array(s["pass_rates"], np.float64), s["samples"]
        )
        for name, s in row.items()
    }


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


def completions_of(folder: Path, campaign: int) -> list[Path]:
    """The completions of a campaign that are there, one file a step and stream."""
    return sorted((folder / COMPLETIONS).glob(f"campaign_{campaign:02d}_step_*.parquet"))


def read_unjudged(folder: Path) -> list[SetAside]:
    """The completions that the grader could not judge, in the order in which they were drawn."""
    return [SetAside(**row) for row in read_lines(folder / UNJUDGED)]


def write_completions(file: Path, groups: Sequence[Group]) -> None:
    """One row a judged completion: problem, sample, token ids, text, program, outcome."""
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
