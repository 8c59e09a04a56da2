from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from selfreg.run import rundir
from selfreg.run.records import (
    Checkpoint,
    FinishReason,
    Grade,
    Group,
    Outcome,
    PanelScore,
    Plan,
    Problem,
    Rollout,
    StepRecord,
    Tests,
    Trace,
)

PROBLEMS, GROUP = 12, 16
RISE_AND_FALL = (0.3, 0.4, 0.5, 0.4, 0.2, 0.0)
FLAT = (0.3, 0.3, 0.3, 0.3, 0.3, 0.3)

# A program can hold anything: markup, control characters, template syntax.
HOSTILE = '</pre><script>alert(1)</script><img src="http://evil/x.png"> {{ 7 * 7 }} \x1b[31m \x00'


def score_at(level: float) -> PanelScore:
    """Return a score with pass@1 = `level`; half of the problems are three times as easy."""
    rates = np.where(np.arange(PROBLEMS) % 2, 0.5, 1.5) * level
    return PanelScore(tuple(f"main/{i}" for i in range(PROBLEMS)), rates, 8)


def group_of(problem_id: str, passed: int, size: int, program: str) -> Group:
    rollout = Rollout(
        np.arange(3, dtype=np.int32),
        np.arange(4, dtype=np.int32),
        np.zeros(4, np.float32),
        program,
        FinishReason.STOP,
    )
    good, bad = Grade(Outcome.PASSED, 0.01), Grade(Outcome.COMPILE_ERROR, 0.01, f"a {HOSTILE}")
    return Group(
        Problem(problem_id, "double it", Tests(code="assert f(1) == 2")),
        (rollout,) * size,
        (program,) * size,
        (good,) * passed + (bad,) * (size - passed),
    )


def _metrics(level: float, last: bool, panel: bool) -> dict[str, float]:
    metrics = {"time/step_s": 0.5}
    if panel:
        score = score_at(level)
        metrics |= {
            "panel_pass_at_1": score.pass_at_1,
            "panel_pass_at_1_se": score.standard_error,
            "time/eval_s": 0.2,
        }
    if not last:
        metrics |= {
            "pass_rate": round(level * GROUP) / GROUP,
            "grader/passed": round(level * GROUP) / GROUP,
            "grader/compile_error": 1 - round(level * GROUP) / GROUP,
            "entropy": 0.1 + 5 * (level < 0.1),
            "clip_ratio": float(level < 0.1),
            "loss": 0.1,
            "time/update_s": 0.2,
        }
    return metrics


def _write(
    folder: Path,
    levels: Sequence[Sequence[float]] = (RISE_AND_FALL,),
    *,
    condition: str = "A0",
    seed: int = 7,
    name: str = "tiny",
    finished: int | None = None,
    panel: bool = True,
    control_metric: str = "panel_pass_at_1",
    completions: bool = True,
    capabilities: Mapping[str, Mapping[str, float]] | None = None,
    **config: Any,
) -> Path:
    """Write a run in which the policy after s updates of campaign c has pass@1 levels[c][s].

    Campaigns from `finished` on have no summary and lack their last record. `capabilities` maps
    name -> place -> pass@1, and is used for every campaign.
    """
    folder.mkdir(parents=True)
    rundir.write_json(
        folder / rundir.CONFIG,
        {
            "name": name,
            "seed": seed,
            "condition": condition,
            "control_metric": control_metric,
            "campaigns": len(levels),
            "rollout": {"problems_per_step": 1, "group_size": GROUP},
            "learn": {"algorithm": "reinforce", "reward_coding": "zero_one"},
            **config,
        },
    )
    start = {
        "time": "2026-01-02",
        "command": ["selfreg/cli/main.py", "--x=1"],
        "devices": ["cpu:0"],
    }
    rundir.write_json(folder / rundir.MANIFEST, {"starts": [start]})
    origin: Checkpoint | None = None
    for campaign, own in enumerate(levels):
        ended = finished is None or campaign < finished
        end = len(own) - 1
        steps = range(end + ended)
        records = [StepRecord(campaign, s, _metrics(own[s], s == end, panel)) for s in steps]
        for record in records:
            rundir.append_line(folder / rundir.METRICS, record)
            if completions and record.step < end:
                passed = round(own[record.step] * GROUP)
                file = rundir.completions_file(folder, campaign, record.step, "train")
                rundir.write_completions(file, [group_of("train/0", passed, GROUP, "def f(x): 1")])
        if not ended:
            break
        peak = Trace(campaign, control_metric, tuple(records)).peak_step
        for step in {0, peak, end}:
            if completions and (step or campaign == 0):
                file = rundir.completions_file(folder, campaign, step, "report")
                ids = score_at(0).problem_ids
                rundir.write_completions(file, [group_of(i, step % 2, 2, HOSTILE) for i in ids])
        plan = Plan(origin, end, 1e-3, 0.0, "the end rolls forward" if origin else "first campaign")
        scores = {"start": score_at(own[0]), "peak": score_at(own[peak]), "end": score_at(own[end])}
        origin = Checkpoint(campaign, peak if condition == "ES" else end)
        measured = {
            name: {place: score_at(level) for place, level in levels_of.items()}
            for name, levels_of in (capabilities or {}).items()
        }
        rundir.append_line(
            folder / rundir.CAMPAIGNS,
            rundir.CampaignSummary(campaign, plan, peak, end, scores, origin, {}, measured),
        )
    return folder


@pytest.fixture
def write_run(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a run: write_run("runs/a", levels, condition="ES", ...)."""

    def write(where: str = "run", *args: Any, **kwargs: Any) -> Path:
        return _write(tmp_path / where, *args, **kwargs)

    return write


@pytest.fixture
def make_group() -> Callable[..., Group]:
    """Return a function that makes a graded group: make_group(name, passed, size, program)."""
    return group_of


@pytest.fixture
def hostile() -> str:
    """Return the hostile text that every program of a written run contains."""
    return HOSTILE
