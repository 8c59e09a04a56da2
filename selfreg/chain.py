"""A chain: campaigns in a row. Plan, run, record, roll forward."""

from pathlib import Path
from typing import Any

from selfreg.campaign import run_campaign
from selfreg.control.conditions import CONDITIONS
from selfreg.control.protocol import Base
from selfreg.records import to_json
from selfreg.rundir import CampaignSummary
from selfreg.stages import open_stages


def run_chain(config: Any, workdir: Path) -> None:
    """Run a chain to its end, or go on with the one in `workdir`.

    Controls are pure functions of traces: those of the campaigns that are already there bring the
    control back to where it stood.

    Args:
      config: A resolved config.
      workdir: The run folder.

    Raises:
      ValueError: The config, the problems, the policy or the folder cannot be used.
      NonFiniteLossError: An update failed.
    """
    condition = CONDITIONS[config.condition]
    base = Base(config.campaign_budget_steps, config.optimizer.lr, config.learn.kl_coef)
    with open_stages(config, workdir) as stages:
        log = stages.log
        control = condition.between.start(base)
        for campaign in range(config.campaigns):
            if campaign < len(log.summaries):
                trace = log.trace(campaign, config.control_metric)
                control = condition.between.observe(control, trace)
                continue
            plan = condition.between.plan(control)
            trace, scores = run_campaign(stages, campaign, plan, condition.within)
            control = condition.between.observe(control, trace)
            summary = CampaignSummary(
                campaign,
                plan,
                trace.peak_step,
                trace.end_step,
                scores,
                condition.between.plan(control).start,
                to_json(control),
            )
            log.finish_campaign(summary)
