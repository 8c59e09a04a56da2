"""Check that the records of a run are complete and in order."""

from collections.abc import Sequence
from pathlib import Path

from selfreg.run.records import StepRecord
from selfreg.run.rundir import CAMPAIGNS, METRICS, RESTORE_FILE, CampaignSummary


def check_records(
    folder: Path, records: Sequence[StepRecord], summaries: Sequence[CampaignSummary]
) -> None:
    """Refuse lost, doubled or moved records. A run writes every step once, in order.

    Args:
      folder: The run folder, for the message.
      records: The run's records, from `read_records`.
      summaries: The summaries of finished campaigns, from `read_summaries`.

    Raises:
      ValueError: A step does not follow the one before it, a finished campaign lacks steps, or an
        earlier campaign lacks its summary.
    """
    last = -1, 0
    for number, record in enumerate(records, 1):
        here = record.campaign, record.step
        if here not in ((last[0], last[1] + 1), (last[0] + 1, 0)):
            raise ValueError(
                f"{folder / METRICS}, line {number} is step {here[1]} of campaign {here[0]}, "
                f"after step {last[1]} of campaign {last[0]}: lines were lost, doubled or moved. "
                f"{RESTORE_FILE}"
            )
        last = here
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
