"""Takes over another run's policy, or its whole first campaign, for a new chain."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selfreg.control import supervise
from selfreg.control.protocol import Base, Within
from selfreg.policy import distributed
from selfreg.run import address, rundir
from selfreg.run.records import Checkpoint, PanelScore, Plan, StepRecord, Trace, Verdict
from selfreg.run.rundir import CampaignSummary, checkpoint_folder
from selfreg.run.runlog import RunLog

# The keys of the model that a checkpoint depends on.
_MODEL = ("model.path", "model.lora_rank", "model.lora_alpha")
# Keys that do not change a first campaign, or change it only through its plan, which is compared
# separately.
_NO_MATTER = (
    "name",
    "condition",
    "within",
    "between",
    "campaigns",
    "share_first_campaign_of",
    "learn.kl_coef",
    "learn.kl_schedule",
    "learn.kl_reference",
    "optimizer.reset_each_campaign",
)
_ORDERS = ("start", "budget_steps", "lr", "kl_coef", "temperature", "group_size")


def find_checkpoint(config: Any) -> tuple[Path, Checkpoint]:
    """Find the run folder and the checkpoint that config.init_checkpoint names.

    Args:
      config: A resolved config whose init_checkpoint has a form of `selfreg.run.address`.

    Raises:
      ValueError: The text has another form; or it names no run, a run of another model, a place
        that may still move, or a step that is not kept.
    """
    try:
        named = address.parse(config.init_checkpoint)
        theirs = address.read_config(named.run)
        own = rundir.flatten(config.to_dict())
        _refuse_differences(f"{named.run} is of another model", theirs, own, _MODEL)
        if not named.is_fixed:
            _refuse_unfinished(named.run, theirs)
        checkpoint = address.find(named)
        address.check_saved(named, checkpoint)
    except ValueError as error:
        raise ValueError(f"config.init_checkpoint={config.init_checkpoint!r}: {error}") from None
    return named.run, checkpoint


def take_first_campaign(
    config: Any, log: RunLog, within: Within, base: Base, plan: Plan
) -> tuple[Trace, dict[str, Mapping[str, PanelScore]]]:
    """Take campaign 0 from the run that config.share_first_campaign_of names.

    Checkpoints and completions become hard links, or copies where the file system has no links, so
    that either run may be deleted. All of this may be done again until the caller keeps the
    campaign's summary.

    Args:
      config: The chain's resolved config.
      log: Its run folder.
      within: Its control within campaigns, which must reach the verdicts of the other run.
      base: The config's values for controls.
      plan: Its plan of campaign 0.

    Returns:
      The trace and the scores, as run_campaign returns them.

    Raises:
      ValueError: The other run's first campaign has not ended, or this chain's own would differ.
    """
    source = Path(config.share_first_campaign_of)
    summary = _first_summary(source, config)
    records = [r for r in rundir.read_records(source) if r.campaign == 0]
    asked = f"config.share_first_campaign_of={str(source)!r}"
    _check_same_plan(asked, summary.plan, plan)
    _check_same_verdicts(asked, records, within, base, plan)
    distributed.from_first(lambda: _link(source, log.folder))
    log.begin_campaign(0, 0)
    for record in records:
        log.append(record)
    trace = rundir.trace_of(records, config.control_metric, summary)
    return trace, {"report": summary.scores, **summary.capabilities}


def _refuse_differences(
    what: str, theirs: Mapping[str, Any], own: Mapping[str, Any], keys: Sequence[str]
) -> None:
    own = json.loads(json.dumps(own))  # tuples become lists, as in their file
    differing = [key for key in keys if theirs.get(key) != own.get(key)]
    if differing:
        shown = ", ".join(f"{k}: {theirs.get(k)!r} there, {own.get(k)!r} here" for k in differing)
        raise ValueError(f"{what} ({shown})")


def _refuse_unfinished(run: Path, config: Mapping[str, Any]) -> None:
    """Refuse to start from what may be another checkpoint when this chain is resumed."""
    done = len(rundir.read_summaries(run))
    if done < config["campaigns"]:
        raise ValueError(
            f"{done} of its {config['campaigns']} campaigns have ended, and this place may still "
            "move; finish that run, or name a CAMPAIGN.STEP"
        )


def _first_summary(source: Path, config: Any) -> CampaignSummary:
    """Check the other run's config, and read the summary of its first campaign."""
    asked = f"config.share_first_campaign_of={str(source)!r}"
    try:
        theirs = address.read_config(source)
    except ValueError as error:
        raise ValueError(f"{asked}: {error}") from None
    own = rundir.flatten(config.to_dict())
    keys = sorted(theirs.keys() | own.keys())
    matter = [k for k in keys if k not in _NO_MATTER and not k.startswith("control.")]
    _refuse_differences(f"{asked} would have another first campaign", theirs, own, matter)
    summaries = rundir.read_summaries(source)
    if not summaries:
        raise ValueError(f"{asked}: its first campaign has not ended; run that chain first")
    return summaries[0]


def _check_same_plan(asked: str, theirs: Plan, own: Plan) -> None:
    differing = [name for name in _ORDERS if getattr(theirs, name) != getattr(own, name)]
    if differing:
        shown = ", ".join(
            f"{name} {getattr(theirs, name)} there, {getattr(own, name)} here" for name in differing
        )
        raise ValueError(f"{asked}: this chain's control plans another first campaign ({shown})")


def _check_same_verdicts(
    asked: str, records: Sequence[StepRecord], within: Within, base: Base, plan: Plan
) -> None:
    """Refuse a control within campaigns that would have ended or restored this one otherwise."""
    supervision = supervise.begin(within, base, plan)
    verdicts = [supervision.verdict]
    for record in records[:-1]:
        supervision = supervise.observe(supervision, record)
        verdicts.append(supervision.verdict)
    went_back = any("control/restores" in record.metrics for record in records)
    as_it_went = [*[Verdict.CONTINUE] * (len(records) - 1), Verdict.STOP]
    if went_back or verdicts != as_it_went:
        raise ValueError(
            f"{asked}: this chain's control within campaigns would have run it otherwise"
        )


def _link(source: Path, folder: Path) -> None:
    """Link the completions of campaign 0, and its checkpoints: all of them or none."""
    theirs, own = (checkpoint_folder(run / rundir.CHECKPOINTS, 0) for run in (source, folder))
    if not own.exists():
        part = own.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(theirs, part, copy_function=_link_file)
        os.replace(part, own)
    (folder / rundir.COMPLETIONS).mkdir(exist_ok=True)
    for file in rundir.completions_of(source, 0):
        place = folder / rundir.COMPLETIONS / file.name
        if not place.exists():
            part = place.with_suffix(".part")
            part.unlink(missing_ok=True)
            _link_file(str(file), str(part))
            os.replace(part, place)


def _link_file(source: str, place: str) -> str:
    """Make a hard link, or a copy where the two are on different file systems."""
    try:
        os.link(source, place)
    except OSError:
        shutil.copy2(source, place)
    return place
