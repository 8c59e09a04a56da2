"""Write the guard's evidence as TensorBoard event files, which `wandb sync` also reads."""

from pathlib import Path

from tensorboardX import SummaryWriter

from selfreg.integrations.watch.follow import Followed


def write(folder: Path, run: Followed) -> None:
    """Write guard/log_evidence (alarm from 0 on), guard/average and guard/value by step."""
    with SummaryWriter(str(folder)) as writer:
        for point in run.points:
            values = {"value": point.value, "average": point.average}
            if point.log_evidence > float("-inf"):
                values["log_evidence"] = point.log_evidence
            for name, value in values.items():
                if value is not None:
                    writer.add_scalar(f"guard/{name}", value, point.step)
