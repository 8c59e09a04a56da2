"""The command line: a checkpoint of a run as a Hugging Face folder.

    python -m selfreg.export --run=runs/tiny/ES/seed_7 --out=exports/tiny
    python -m selfreg.export --run=runs/tiny/ES/seed_7 --out=exports/peak --campaign=0 --which=peak
    python -m selfreg.export --run=runs/tiny/ES/seed_7 --out=exports/step --campaign=1 --step=12

transformers and SGLang open the folder: config.json, generation_config.json with the run's stop
tokens, sharded safetensors, tokenizer and chat template.

Which checkpoint: --which=kept (the default) is what the run's control hands on after a campaign,
peak and end are those of that campaign, and --step names any other that is on disk. The shape and
the tokenizer are read from where the run began, its config.model.path.
"""

import json
import os
from pathlib import Path
from typing import Any

from absl import flags, logging

from selfreg.run.command import Command
from selfreg.run.command import run as run_command
from selfreg.run.records import Checkpoint
from selfreg.run.rundir import CHECKPOINTS, CONFIG, read_summaries, saved_steps

_RUN = flags.DEFINE_string("run", None, "The run folder.")
_OUT = flags.DEFINE_string("out", None, "The folder to make; must be empty or not there.")
_CAMPAIGN = flags.DEFINE_integer(
    "campaign", None, "From 0; the last finished one by default.", lower_bound=0
)
_STEP = flags.DEFINE_integer(
    "step", None, "Updates made in --campaign; instead of --which.", lower_bound=0
)
_WHICH = flags.DEFINE_enum("which", None, ("kept", "peak", "end"), "Of a finished campaign.")
_DTYPE = flags.DEFINE_enum(
    "dtype",
    None,
    ("float32", "bfloat16", "float16"),
    "What the weights are stored in; by default the run's config.model.dtype, in which its "
    "completions were drawn. float32 keeps every bit of the trained weights.",
)


def _config(run: Path) -> dict[str, Any]:
    if not (run / CONFIG).is_file():
        raise ValueError(f"--run={run} is no run folder: it has no {CONFIG}")
    return json.loads((run / CONFIG).read_text())


def _chosen(run: Path) -> Checkpoint:
    """The checkpoint that the flags name.

    Raises:
      ValueError: They contradict each other, or that checkpoint is not there.
    """
    if _STEP.value is not None:
        if _WHICH.value is not None:
            raise ValueError("--step and --which both name a step: leave one out")
        if _CAMPAIGN.value is None:
            raise ValueError(f"--step={_STEP.value} of which campaign? add --campaign")
        checkpoint = Checkpoint(_CAMPAIGN.value, _STEP.value)
    else:
        checkpoint = _of_summary(run, _WHICH.value or "kept")
    steps = saved_steps(run / CHECKPOINTS, checkpoint.campaign)
    if checkpoint.step not in steps:
        there = f"only steps {', '.join(map(str, steps))}" if steps else "none of that campaign"
        raise ValueError(
            f"{run} has no checkpoint of campaign {checkpoint.campaign}, step {checkpoint.step}: "
            f"{there} on disk"
        )
    return checkpoint


def _of_summary(run: Path, which: str) -> Checkpoint:
    summaries = read_summaries(run)
    number = len(summaries) - 1 if _CAMPAIGN.value is None else _CAMPAIGN.value
    if not 0 <= number < len(summaries):
        wanted = "campaign" if _CAMPAIGN.value is None else f"campaign {number}"
        raise ValueError(
            f"no {wanted} of {run} has finished: of one that runs still, name a checkpoint by "
            "--campaign and --step"
        )
    summary = summaries[number]
    if which != "kept":
        return Checkpoint(number, summary.peak_step if which == "peak" else summary.end_step)
    if summary.kept is None:
        raise ValueError(
            f"campaign {number} handed on the chain's initial policy, which is there already "
            "(config.model.path): choose --which=peak or --which=end"
        )
    return summary.kept


def _export(run: Path, out: Path) -> None:
    """Read the checkpoint onto all devices and write it, one file's weights at a time."""
    config, chosen = _config(run), _chosen(run)
    # Only now: a mistake in a flag should not wait for jax to load.
    import jax

    from selfreg.policy import xla
    from selfreg.policy.mesh import make_mesh
    from selfreg.policy.models.adapted import Adapted
    from selfreg.policy.models.decoder import layout
    from selfreg.policy.models.hf import save_folder
    from selfreg.policy.models.lora import frozen_types, trained_shapes
    from selfreg.policy.models.policy import open_policy
    from selfreg.policy.models.weights import place
    from selfreg.run.checkpoint import restore

    xla.set_up()
    model = config["model"]
    policy, weights = open_policy(model["path"])
    mesh = make_mesh(1, jax.device_count(), 1)
    shapes = trained_shapes(policy, model["lora_rank"])
    shardings = layout(policy.config, mesh, shapes)
    like = jax.tree.map(
        lambda leaf, s: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=s), shapes, shardings
    )
    params = restore(run / CHECKPOINTS, chosen, {"params": like})["params"]
    if model["lora_rank"]:  # as the learner merges them
        types = frozen_types(weights, jax.numpy.dtype(model["dtype"]))
        base = place(weights, layout(policy.config, mesh, weights), types)
        params = Adapted(base, params, model["lora_alpha"])
    dtype = _DTYPE.value or config["model"]["dtype"]
    save_folder(
        out, policy.config, params, policy.tokenizer,
        dtype=dtype, stop_ids=policy.stop_ids,
    )  # fmt: skip
    print(f"{out}: campaign {chosen.campaign}, step {chosen.step}, {dtype}")


def main(_: list[str]) -> None:
    """Export one checkpoint."""
    if not flags.FLAGS["verbosity"].present:  # the libraries' notes would bury the answer
        logging.set_verbosity(logging.ERROR)
    if _RUN.value is None or _OUT.value is None:
        raise ValueError("--run and --out are needed: a run folder, and the folder to make")
    out = Path(_OUT.value)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out={out} holds something already: name another folder")
    _export(Path(_RUN.value), out)


def run() -> None:
    """Run the command."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # torch is not needed here
    run_command(main, Command("export", "selfreg.export", "--run=RUN --out=FOLDER"))


if __name__ == "__main__":
    run()
