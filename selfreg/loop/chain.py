"""A chain: campaigns in a row. Plan, run, record, roll forward."""

from pathlib import Path
from typing import Any

from selfreg.control.find import find_between, find_calibration, find_within
from selfreg.control.protocol import Between, base_of
from selfreg.loop.campaign import run_campaign
from selfreg.loop.lineage import take_first_campaign
from selfreg.loop.stages import Stages, open_stages
from selfreg.policy import distributed
from selfreg.run.records import Plan, to_json
from selfreg.run.rundir import CampaignSummary, Planned, read_memory, read_updates, trace_of
from selfreg.run.runlog import is_finished


def run_chain(config: Any, workdir: Path) -> None:
    """Run a chain to its end, or go on with the one in `workdir`.

    Controls are pure functions of traces and answers: those that are already there bring the
    control back to where it stood.

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
    within.start(base, base.plan(0, None, ""))  # what it refuses should not wait for a policy
    control = between.start(base)
    if distributed.from_first(lambda: is_finished(workdir, config.to_dict())):
        return  # a policy takes longer to load than all that is left to do
    with open_stages(config, workdir) as stages:
        log = stages.log
        for campaign in range(config.campaigns):
            control, plan = _decide(stages, between, control, campaign)
            if campaign == len(log.summaries):
                if campaign == 0 and config.share_first_campaign_of:
                    trace, measured = take_first_campaign(config, log, within, base, plan)
                else:
                    trace, measured = run_campaign(stages, campaign, plan, within, base)
                control = between.observe(control, trace)
                summary = CampaignSummary(
                    campaign,
                    plan,
                    trace.peak_step,
                    trace.end_step,
                    measured["report"],
                    between.plan(control).start,
                    to_json(control),
                    {name: scores for name, scores in measured.items() if name != "report"},
                )
                log.finish_campaign(summary, between.remember(control))
            else:
                trace = trace_of(log.records, config.control_metric, log.summaries[campaign])
                control = between.observe(control, trace)


def _decide(stages: Stages, between: Between, control: Any, campaign: int) -> tuple[Any, Plan]:
    """The control's state once its question is answered, and the campaign's plan."""
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
