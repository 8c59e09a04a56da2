"""Write the guard's evidence as TensorBoard event files, which `wandb sync` also reads."""

from pathlib import Path

from selfreg.integrations.watch.follow import Followed
from selfreg.run.events import EventFile


def write(folder: Path, run: Followed) -> None:
    """Write guard/log_evidence (alarm from 0 on), guard/average and guard/value by step."""
    with EventFile(folder) as file:
        for point in run.points:
            values = {"value": point.value, "average": point.average}
            if point.log_evidence > float("-inf"):
                values["log_evidence"] = point.log_evidence
            known = {f"guard/{name}": v for name, v in values.items() if v is not None}
            file.scalars(known, point.step)
