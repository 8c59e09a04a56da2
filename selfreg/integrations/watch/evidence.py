"""The guard's own evidence as TensorBoard event files: `wandb sync` and W&B's mirror read them."""

from pathlib import Path

from selfreg.integrations.watch.follow import Followed
from selfreg.run.events import EventFile


def write(folder: Path, run: Followed) -> None:
    """Write guard/log_evidence (an alarm from 0), guard/average and guard/value by step."""
    with EventFile(folder) as file:
        for point in run.points:
            values = {"value": point.value, "average": point.average}
            if point.log_evidence > float("-inf"):
                values["log_evidence"] = point.log_evidence
            known = {f"guard/{name}": v for name, v in values.items() if v is not None}
            file.scalars(known, point.step)
