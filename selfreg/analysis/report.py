"""Write a run's report into its folder: trajectory.png, report.html and verdict.json."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from selfreg.analysis import capabilities, decisions, page, words
from selfreg.analysis.browse import TRAIN_SAMPLES, Selection, select
from selfreg.analysis.charts import capability_figure, outcome_bars, outcome_figure, variety
from selfreg.analysis.decisions import Decided
from selfreg.analysis.load import Run, load_run, report_completions
from selfreg.analysis.nullmodel import NullTest
from selfreg.analysis.plot import Band, has_panel, image, null_bands, trajectory_figure
from selfreg.analysis.trajectory import GAP_LEVELS, WINDOW
from selfreg.analysis.verdict import CampaignVerdict, RunVerdict, judge_run, pass_rate_noise
from selfreg.run.records import Checkpoint, to_json
from selfreg.run.rundir import write_json

TRAJECTORY, REPORT, VERDICT = "trajectory.png", "report.html", "verdict.json"
EXAMPLES = 4
# The page has about this size at most. Completions fill the space that the pictures leave.
PAGE_BYTES, LEAST_BYTES = 2_800_000, 500_000
_STATISTICS = {
    "peak": "peak",
    "end": "end",
    "gap": "peak - end",
    "ratio": "end / peak",
    "phase_transition": "largest drop / gap",
    "latency_steps": "steps after the onset",
}


def write_report(folder: Path) -> str:
    """Judge the run in a folder, finished or not, and write its report.

    Returns:
      The verdict in a few lines, and the path of the report.

    Raises:
      ValueError: It is not a run folder, or holds no step yet.
    """
    run = load_run(folder)
    verdict = judge_run(run)
    text = words.describe(verdict)
    write_json(folder / VERDICT, {"text": text, **to_json(verdict)})
    bands, decided = _bands(run, verdict), decisions.decisions(run)
    drawn = trajectory_figure([run], bands=bands, decided=decided)
    (folder / TRAJECTORY).write_bytes(image(drawn, "png"))
    html = _page(run, verdict, text, bands, decided)
    (folder / REPORT).write_text(html, encoding="utf-8")
    return f"{text}\nRun: {folder}\nReport: {folder / REPORT}"


def _page(
    run: Run, verdict: RunVerdict, text: str, bands: list[Band], decided: list[Decided]
) -> str:
    dropped = words.largest_drop(verdict.campaigns) if verdict.campaigns else None
    bars, varieties, policies = outcome_bars(run), variety(run), capabilities.measured(run)
    pictures = {
        "trajectory": page.themed(lambda theme: trajectory_figure([run], theme, bands, decided)),
        "outcomes": page.themed(lambda theme: outcome_figure(bars, varieties, theme))
        if bars
        else None,
        "capability_chart": page.themed(lambda theme: capability_figure(policies, theme))
        if policies
        else None,
    }
    drawn = sum(
        len(address) for images in pictures.values() if images for address in images.values()
    )
    selection = select(run, max(PAGE_BYTES - drawn, LEAST_BYTES))
    return page.render(
        "report.html.j2",
        title=f"{run.config['name']}: {run.condition}, seed {run.seed}",
        subtitle=_subtitle(run),
        text=text,
        verdict=verdict,
        window=WINDOW,
        **pictures,
        has_panel=has_panel(run),
        bands=bands,
        decided=decisions.rows(run, decided),
        answers=[one for one in decided if one.answer is not None],
        capabilities=capabilities.score_rows(policies),
        gaps=capabilities.gap_rows(policies),
        campaigns=[campaign_row(campaign) for campaign in verdict.campaigns],
        metrics=[metric_row(campaign) for campaign in verdict.campaigns],
        nulls=[row for campaign in verdict.campaigns for row in null_rows(campaign)],
        example_campaign=dropped.campaign + 1 if dropped else 0,
        examples=examples(run, dropped) if dropped else [],
        selection=selection,
        selected=selected(selection),
        timings=timings(run),
        starts=run.manifest.get("starts", []),
        config=json.dumps(run.config, indent=2),
    )


def selected(selection: Selection) -> str:
    """Describe in a sentence how many of the kept completions the page contains, by stream."""
    parts = [
        f"{stream} {selection.shown.get(stream, 0):,} of {kept:,}"
        for stream, kept in selection.kept.items()
    ]
    shown, kept = sum(selection.shown.values()), sum(selection.kept.values())
    if shown == kept:
        return f"This page holds all {kept:,} completions that the run kept."
    return (
        f"This page holds {shown:,} of the {kept:,} completions that the run kept "
        f"({', '.join(parts)}). The others are in the run folder's completions/. The page was "
        "filled in this order: sample 0 of every panel at each campaign's start, peak and end; "
        f"{TRAIN_SAMPLES} of each training group; the rest of those panels; the panel at other "
        "steps; the rest of the training groups."
    )


def campaign_row(campaign: CampaignVerdict) -> dict[str, str]:
    """Format one campaign's scores on the report panel, by column."""
    by_construction = "0, by construction"
    return {
        "campaign": str(campaign.campaign + 1),
        "updates": str(campaign.end_step),
        "start": words.score(campaign.start),
        "peak": words.score(campaign.peak),
        "at step": str(campaign.peak_step),
        "end": words.score(campaign.end),
        "rise": words.change(campaign.rise) if campaign.rise else by_construction,
        "drop": words.interval(campaign.drop) if campaign.drop else by_construction,
        "verdict": campaign.finding.value,
    }


def metric_row(campaign: CampaignVerdict) -> dict[str, str]:
    """Format one campaign's training metrics, by column."""
    return {
        "campaign": str(campaign.campaign + 1),
        "panel drop": _panel(campaign),
        "pass_rate gap": _gap(campaign),
        "flags": _flags(campaign),
    }


def null_rows(campaign: CampaignVerdict) -> list[dict[str, str]]:
    """Format each collapse statistic of the smoothed pass_rate beside its nulls, one row each.

    A statistic that is undefined in the campaign or in its null is left out.
    """
    shown = [c for c in (campaign.noise, campaign.permuted) if c is not None]
    rows = []
    for name, title in _STATISTICS.items():
        tests = {null.kind: getattr(null, name) for null in shown}
        found = {kind: test for kind, test in tests.items() if test is not None}
        if found:
            first = next(iter(found.values()))
            row = {
                "campaign": str(campaign.campaign + 1),
                "statistic": title,
                "observed": f"{first.observed:.2f}",
            }
            for kind in ("stationary", "permutation"):
                row[kind] = _null(found[kind]) if kind in found else ""
            rows.append(row)
    return rows


def examples(run: Run, campaign: CampaignVerdict) -> list[dict[str, Any]]:
    """Return sample 0 of a few report problems from the policies at start, peak and end.

    Returns:
      One row per problem: its id, its spec if stored, and the answers of the distinct policies.
      Empty if the completions were not kept.
    """
    steps = {0: "start", campaign.peak_step: "peak", campaign.end_step: "end"}
    steps[campaign.peak_step] = "peak" if campaign.drop else "peak and end"
    if not campaign.rise:
        steps[0] = "start and peak"
    asked = {
        place: {
            row["problem_id"]: row
            for row in report_completions(run, Checkpoint(campaign.campaign, step))
            if row["sample"] == 0
        }
        for step, place in steps.items()
    }
    problems = next(iter(asked.values()))
    ids = list(problems)
    chosen = sorted({int(i) for i in np.linspace(0, len(ids) - 1, EXAMPLES)}) if ids else []
    return [
        {
            "problem_id": ids[i],
            "spec": problems[ids[i]].get("spec", ""),
            "answers": [
                {"place": p, **rows[ids[i]]} for p, rows in asked.items() if ids[i] in rows
            ],
        }
        for i in chosen
    ]


def timings(run: Run) -> list[dict[str, str]]:
    """Format the time of each stage: total, median over the steps that have it, and share.

    The row "other" holds the time that no stage accounts for.
    """
    totals: dict[str, list[float]] = {}
    for record in run.records:
        for name, value in record.metrics.items():
            if name.startswith("time/"):
                totals.setdefault(name.removeprefix("time/").removesuffix("_s"), []).append(value)
    if "step" not in totals:
        return []
    whole = sum(totals["step"])
    known = sum(sum(seconds) for name, seconds in totals.items() if name != "step")
    rows = [(name, sum(s), float(np.median(s))) for name, s in totals.items() if name != "step"]
    rows.sort(key=lambda row: -row[1])
    rows += [("other", whole - known, np.nan), ("all", whole, float(np.median(totals["step"])))]
    return [
        {
            "stage": name,
            "total": f"{total:.1f} s",
            "median": "" if np.isnan(median) else f"{median:.3f} s",
            "share": f"{total / whole:.0%}",
        }
        for name, total, median in rows
    ]


def _bands(run: Run, verdict: RunVerdict) -> list[Band]:
    """Return the band of the stationary null for each campaign, including an unfinished one."""
    nulls = [campaign.noise for campaign in verdict.campaigns]
    nulls += [pass_rate_noise(run, trace.campaign) for trace in run.traces[len(nulls) :]]
    return null_bands(run, nulls)


def _subtitle(run: Run) -> str:
    learn: Mapping[str, Any] = run.config.get("learn", {})
    rollout = run.config["rollout"]
    return (
        f"{learn.get('algorithm', '')} with rewards {learn.get('reward_coding', '')}, "
        f"{rollout['problems_per_step']} problem(s) per step, {rollout['group_size']} completions "
        f"each; {run.updates} updates; the control reads {run.config['control_metric']}"
    )


def _panel(campaign: CampaignVerdict) -> str:
    if campaign.panel is None:
        return "panel completions not kept"
    of = campaign.panel
    return f"{of.drop:.2f}, {words.p_value(of.p)} (n = {of.problems}, best of {of.readings})"


def _gap(campaign: CampaignVerdict) -> str:
    if campaign.noise is None:
        return "training completions not kept"
    gap, steps = campaign.noise.gap, campaign.noise.reading.steps
    return f"{gap.observed:.2f}, null {_null(gap)} (n = {steps} steps)"


def _null(test: NullTest) -> str:
    interval = f"[{test.null_low:.2f}, {test.null_high:.2f}]"
    return f"{test.null_mean:.2f} {interval}, {words.p_value(test.p)}"


def _flags(campaign: CampaignVerdict) -> str:
    """Format the paper's collapse flags for the series that the control read."""
    shape = campaign.shape
    flags = ["end/peak < 0.3"] if shape.collapsed else []
    flags += [f"gap > {level}" for level in GAP_LEVELS if shape.gap_above(level)]
    if shape.onset_step is not None:
        flags.append(f"onset at step {shape.onset_step}, {shape.latency_steps} before the end")
    if shape.phase_transition is not None:
        flags.append(f"largest drop / gap {shape.phase_transition:.2f}")
    return "; ".join(flags) or "none"
