"""Find the checkpoint that RUN:WHERE names, by one grammar for all commands and config keys.

    RUN:start       the run's initial policy
    RUN:peak        the first step at which the control's metric had its maximum
    RUN:end         the last step of the last finished campaign
    RUN:kept        the checkpoint that the control hands on after the last finished campaign
    RUN:latest      the newest checkpoint on disk, even of an unfinished campaign
    RUN:3:peak      the same places, but of campaign 3 (the first one is 0)
    RUN:3.20        step 20 of campaign 3

RUN is a run folder. peak, end and kept need a finished campaign.
"""

import difflib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfreg.run import rundir
from selfreg.run.config import completed
from selfreg.run.records import Checkpoint, find_peak
from selfreg.run.rundir import CampaignSummary

PLACES = ("start", "peak", "end", "kept", "latest")
FORMS = f"RUN:PLACE, RUN:CAMPAIGN:PLACE or RUN:CAMPAIGN.STEP, with a PLACE of {', '.join(PLACES)}"


@dataclass(frozen=True, slots=True)
class Address:
    """A user's name for a checkpoint.

    Attributes:
      text: The address as the user wrote it.
      run: The run folder.
      campaign: The campaign, counted from 0; None if the place is one of the whole run.
      where: A place, or a step of the campaign.
    """

    text: str
    run: Path
    campaign: int | None
    where: str | int

    @property
    def is_fixed(self) -> bool:
        """Whether the address names the same checkpoint however far the run goes on."""
        if self.where == "start" or isinstance(self.where, int):
            return True
        return self.campaign is not None and self.where != "latest"


def parse(text: str) -> Address:
    """Parse RUN:PLACE, RUN:CAMPAIGN:PLACE or RUN:CAMPAIGN.STEP, without reading the disk.

    Raises:
      ValueError: The text has another form.
    """
    run, _, last = text.rpartition(":")
    campaign, _, step = last.partition(".")
    if run and campaign.isdecimal() and step.isdecimal():
        return Address(text, Path(run), int(campaign), int(step))
    if run and last in PLACES:
        head, _, number = run.rpartition(":")
        if head and number.isdecimal():
            return Address(text, Path(head), int(number), last)
        return Address(text, Path(run), None, last)
    close = difflib.get_close_matches(last, PLACES, n=1, cutoff=0.6) if run else []
    meant = f"; did you mean {run}:{close[0]}?" if close else ""
    raise ValueError(f"{text!r} names no checkpoint: write {FORMS}{meant}")


def find(address: Address) -> Checkpoint:
    """Return the checkpoint that an address names, without checking that its weights are on disk.

    Raises:
      ValueError: The run or the campaign does not exist, or the campaign has not finished.
    """
    run, where = address.run, address.where
    if not run.is_dir():
        raise ValueError(f"{address.text!r}: there is no folder {run}")
    if isinstance(where, int):
        assert address.campaign is not None
        return Checkpoint(address.campaign, where)
    if where == "start":
        return Checkpoint(address.campaign or 0, 0)
    if where == "latest":
        return _latest(address)
    summary = _summary(address)
    if where == "peak" and address.campaign is None:
        return _peak(run, summary.campaign + 1)
    if where == "kept":
        return summary.kept or Checkpoint(0, 0)
    return Checkpoint(summary.campaign, summary.peak_step if where == "peak" else summary.end_step)


def check_saved(address: Address, checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint whose weights are not on disk.

    Raises:
      ValueError: The weights are not on disk. The message lists the saved steps of the campaign.
    """
    steps = rundir.saved_steps(address.run / rundir.CHECKPOINTS, checkpoint.campaign)
    if checkpoint.step not in steps:
        there = ", ".join(f"{checkpoint.campaign}.{step}" for step in steps) or "no step"
        raise ValueError(
            f"{address.text!r}: of campaign {checkpoint.campaign} it keeps {there}, and not step "
            f"{checkpoint.step}; a run with config.checkpoint.keep_every_steps keeps more"
        )


def read_config(run: Path) -> dict[str, Any]:
    """Read the config of a run folder as a flat dictionary with dotted keys.

    Raises:
      ValueError: The folder has no config.
    """
    file = run / rundir.CONFIG
    if not file.is_file():
        raise ValueError(f"{run} is no run folder, it has no {rundir.CONFIG}")
    return completed(rundir.flatten(json.loads(file.read_text())))


def _summary(address: Address) -> CampaignSummary:
    """Return the summary of the address's campaign; of the last finished one if it names none."""
    try:
        summaries = rundir.read_summaries(address.run)
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{address.run} was written by another version of selfreg: {error}"
        ) from None
    if not summaries:
        raise ValueError(
            f"{address.text!r}: {address.run} has no finished campaign; name a CAMPAIGN.STEP or "
            "latest"
        )
    number = len(summaries) - 1 if address.campaign is None else address.campaign
    if number >= len(summaries):
        raise ValueError(
            f"{address.text!r}: campaigns 0 to {len(summaries) - 1} have finished; name a "
            "CAMPAIGN.STEP of one that still runs"
        )
    return summaries[number]


def _peak(run: Path, campaigns: int) -> Checkpoint:
    """Find the peak of the control's metric over the first `campaigns` campaigns."""
    own = [record for record in rundir.read_records(run) if record.campaign < campaigns]
    peak = find_peak(own, read_config(run)["control_metric"])
    return Checkpoint(peak.campaign, peak.step)


def _latest(address: Address) -> Checkpoint:
    folder = address.run / rundir.CHECKPOINTS
    if address.campaign is None:
        names = (place.name.removeprefix("campaign_") for place in folder.glob("campaign_*"))
        campaigns = sorted((int(name) for name in names if name.isdecimal()), reverse=True)
    else:
        campaigns = [address.campaign]
    for campaign in campaigns:
        steps = rundir.saved_steps(folder, campaign)
        if steps:
            return Checkpoint(campaign, steps[-1])
    raise ValueError(f"{address.text!r}: there is no checkpoint in {folder}")
