"""Runs a chain of campaigns.

    decide -> run the campaign -> observe -> record -> next campaign

The control between campaigns decides where each campaign starts, for how long it runs and at which
rates. A finished campaign is recorded once and never run again.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selfreg.control.find import find_between, find_calibration, find_within
from selfreg.control.protocol import Base, Between, Within, base_of
from selfreg.loop.campaign import run_campaign
from selfreg.loop.lineage import take_first_campaign
from selfreg.loop.measure import REPORT
from selfreg.loop.stages import Stages, open_stages
from selfreg.policy import distributed
from selfreg.run.records import PanelScore, Plan, Trace, to_json
from selfreg.run.rundir import CampaignSummary, Planned, read_memory, read_updates, trace_of
from selfreg.run.runlog import is_finished


def run_chain(config: Any, workdir: Path) -> None:
    """Run a chain to its end, or resume the chain in `workdir`.

    Controls are pure functions of traces and answers. Replaying those that are stored brings the
    control of a resumed chain back to where it stood.

    Args:
      config: A resolved config.
      workdir: The run folder.

    Raises:
      ValueError: The config, the problems, the policy or the folder cannot be used.
      NonFiniteLossError: An update failed.
    """
    within, between = find_within(config.within), find_between(config.between)
    calibration = find_calibration(config.control.predictor_calibration)
    updates = read_updates(config.control.match_updates_of)
    base = base_of(config, read_memory(config.control.memory), calibration, updates)
    within.start(base, base.plan(0, None, ""))  # refuse bad settings before a policy is loaded
    control = between.start(base)
    if distributed.from_first(lambda: is_finished(workdir, config.to_dict())):
        return  # loading a policy takes longer than everything that is left to do
    with open_stages(config, workdir) as stages:
        log = stages.log
        for campaign in range(config.campaigns):
            control, plan = _decide(stages, between, control, campaign)
            if campaign < len(log.summaries):
                trace = trace_of(log.records, config.control_metric, log.summaries[campaign])
                control = between.observe(control, trace)
                continue
            trace, measured = _run(stages, campaign, plan, within, base)
            control = between.observe(control, trace)
            summary = _summarize(plan, trace, measured, between, control)
            log.finish_campaign(summary, between.remember(control))


def _decide(stages: Stages, between: Between, control: Any, campaign: int) -> tuple[Any, Plan]:
    """Ask the control's question, if it has one, and record the plan that follows."""
    log = stages.log
    planned = log.planned.get(campaign)
    if planned is None:
        question = between.ask(control)
        answer = None if question is None else distributed.from_first(lambda: stages.ask(question))
    else:
        answer = planned.answer
    if answer is not None:
        control = between.hear(control, answer)
    plan = between.plan(control)
    if planned is None:
        log.keep_plan(Planned(campaign, plan, answer))
    return control, plan


def _run(
    stages: Stages, campaign: int, plan: Plan, within: Within, base: Base
) -> tuple[Trace, dict[str, Mapping[str, PanelScore]]]:
    """Run the campaign, or take the first one from another run where the config says so."""
    config = stages.config
    if campaign == 0 and config.share_first_campaign_of:
        return take_first_campaign(config, stages.log, within, base, plan)
    return run_campaign(stages, campaign, plan, within, base)


def _summarize(
    plan: Plan,
    trace: Trace,
    measured: Mapping[str, Mapping[str, PanelScore]],
    between: Between,
    control: Any,
) -> CampaignSummary:
    """Return what the run folder keeps of a campaign, given the control's state after it."""
    return CampaignSummary(
        campaign=trace.campaign,
        plan=plan,
        peak_step=trace.peak_step,
        end_step=trace.end_step,
        scores=measured[REPORT],
        kept=between.plan(control).start,
        control_state=to_json(control),
        capabilities={name: scores for name, scores in measured.items() if name != REPORT},
    )
