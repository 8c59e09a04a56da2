"""Measures policies on panels: at one step, or at a campaign's start, peak and end."""

from collections.abc import Mapping
from dataclasses import replace

from selfreg.loop.panel import Panel, score
from selfreg.loop.sample import Stopwatch
from selfreg.loop.stages import Stages
from selfreg.run.checkpoint import restore
from selfreg.run.records import Checkpoint, PanelScore, Plan, Trace
from selfreg.run.rundir import CHECKPOINTS, capabilities_by_place, place_of

REPORT = "report"


def measure(stages: Stages, panel: Panel, stream: str, campaign: int, step: int) -> PanelScore:
    """Score the engine's weights on a panel, and write the completions to the run folder."""
    set_aside = stages.log.set_aside(campaign, step, stream)
    groups = stages.sampler.groups(panel.problems, panel.seeds(), Stopwatch(), set_aside=set_aside)
    stages.log.completions(campaign, step, stream, groups)
    return score(groups)


def finish(
    stages: Stages, campaign: int, plan: Plan
) -> tuple[Trace, dict[str, Mapping[str, PanelScore]]]:
    """Make the trace of a campaign that has ended, and measure its start, peak and end.

    Returns:
      The trace, with the capabilities that controls see, and the scores of measure_campaign.
    """
    own = tuple(record for record in stages.log.records if record.campaign == campaign)
    trace = Trace(campaign, stages.config.control_metric, own)
    measured = measure_campaign(stages, trace, plan)
    capabilities = {name: scores for name, scores in measured.items() if name != REPORT}
    return replace(trace, capabilities=capabilities_by_place(capabilities)), measured


def measure_campaign(
    stages: Stages, trace: Trace, plan: Plan
) -> dict[str, Mapping[str, PanelScore]]:
    """Score the start, the peak and the end on the report panel and on every capability's panel.

    Each policy is measured once. The start was measured by the campaign that it comes from.

    Returns:
      The scores by panel ("report", or a capability's name), then by place.
    """
    panels = {REPORT: stages.report, **stages.capabilities}
    wanted = {"start": 0, "peak": trace.peak_step, "end": trace.end_step}
    scores: dict[str, dict[int, PanelScore]] = {name: {} for name in panels}
    if plan.start is not None:
        before = stages.log.summaries[plan.start.campaign]
        place = place_of(before, plan.start.step)
        known = {REPORT: before.scores, **before.capabilities}
        scores = {name: {0: known[name][place]} for name in panels}
    for step in sorted(set(wanted.values()) - scores[REPORT].keys()):
        folder = stages.log.folder / CHECKPOINTS
        like = {"params": stages.learner.like.params}
        trained = restore(folder, Checkpoint(trace.campaign, step), like)["params"]
        stages.load(trained, trace.campaign, step)
        for name, panel in panels.items():
            scores[name][step] = measure(stages, panel, name, trace.campaign, step)
    return {
        name: {place: own[step] for place, step in wanted.items()} for name, own in scores.items()
    }
