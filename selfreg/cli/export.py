"""Write a checkpoint of a run as a Hugging Face folder, which transformers and SGLang open.

    selfreg export --checkpoint=runs/tiny/ES/seed_7:kept --out=exports/tiny
    selfreg export --checkpoint=runs/tiny/ES/seed_7:0:peak --out=exports/peak
    selfreg export --checkpoint=runs/tiny/ES/seed_7:1.12 --out=exports/step

The folder holds config.json, generation_config.json with the run's stop tokens, sharded
safetensors, the tokenizer and the chat template. The shape and the tokenizer come from the run's
initial model, config.model.path.

--run, --campaign, and --which or --step can name the checkpoint instead. --run=RUN alone means
RUN:kept.
"""

import os
from pathlib import Path

from absl import flags

from selfreg.run import address
from selfreg.run.address import Address
from selfreg.run.command import Command
from selfreg.run.command import run as run_command
from selfreg.run.records import Checkpoint
from selfreg.run.rundir import read_summaries

_CHECKPOINT = flags.DEFINE_string("checkpoint", None, f"The checkpoint: {address.FORMS}.")
_OUT = flags.DEFINE_string("out", None, "The folder to write; it must be empty or not exist yet.")
_DTYPE = flags.DEFINE_enum(
    "dtype",
    None,
    ("float32", "bfloat16", "float16"),
    "The type that weights are stored in; by default the run's config.model.dtype, in which it "
    "drew completions. float32 keeps every bit of the trained weights.",
)
_RUN = flags.DEFINE_string("run", None, "The run folder, instead of --checkpoint.")
_CAMPAIGN = flags.DEFINE_integer(
    "campaign", None, "With --run: from 0; by default the last finished one.", lower_bound=0
)
_STEP = flags.DEFINE_integer("step", None, "With --run: a step of --campaign.", lower_bound=0)
_WHICH = flags.DEFINE_enum(
    "which", None, ("kept", "peak", "end"), "With --run: a place in the campaign; by default kept."
)

_NEEDED = "--checkpoint=RUN:PLACE (or --run) and --out are needed"


def _asked() -> Address:
    """Return the address of the checkpoint that the flags name.

    Raises:
      ValueError: The flags name no checkpoint, or two.
    """
    others = {"run": _RUN, "campaign": _CAMPAIGN, "step": _STEP, "which": _WHICH}
    given = [name for name, flag in others.items() if flag.value is not None]
    if _CHECKPOINT.value is not None:
        if given:
            raise ValueError(f"--checkpoint and --{given[0]} both name a checkpoint: leave one out")
        return address.parse(_CHECKPOINT.value)
    run, campaign = _RUN.value, _CAMPAIGN.value
    if run is None:
        raise ValueError(_NEEDED)
    if _STEP.value is not None:
        if _WHICH.value is not None:
            raise ValueError("--step and --which both name a step: leave one out")
        if campaign is None:
            raise ValueError(f"--step={_STEP.value} of which campaign? add --campaign")
        return address.parse(f"{run}:{campaign}.{_STEP.value}")
    which = _WHICH.value or "kept"
    if which == "peak" and campaign is None:  # of the last campaign; RUN:peak is the whole run's
        campaign = max(0, len(read_summaries(Path(run))) - 1)
    return address.parse(f"{run}:{which}" if campaign is None else f"{run}:{campaign}:{which}")


def _find(named: Address) -> Checkpoint:
    """Find the checkpoint at an address.

    Raises:
      ValueError: The checkpoint is not on disk, or is the run's initial policy.
    """
    checkpoint = address.find(named)
    if named.where == "kept" and checkpoint.step == 0:
        number = named.campaign
        if number is None:
            number = len(read_summaries(named.run)) - 1
        raise ValueError(
            f"campaign {number} handed on the chain's initial policy, which is there already "
            "(config.model.path): choose peak or end"
        )
    address.check_saved(named, checkpoint)
    return checkpoint


def main(_: list[str]) -> None:
    """Export one checkpoint."""
    if _OUT.value is None:
        raise ValueError(_NEEDED)
    out = Path(_OUT.value)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out={out} holds something already: name another folder")
    named = _asked()
    config = address.read_config(named.run)
    checkpoint = _find(named)
    # Imported this late, so that a mistake in a flag is reported without waiting for jax to load.
    import jax

    from selfreg.cli.checkpoint import open_checkpoint
    from selfreg.policy import xla
    from selfreg.policy.mesh import make_mesh
    from selfreg.policy.models.hf import save_folder

    xla.set_up()
    policy, params = open_checkpoint(named.run, checkpoint, make_mesh(1, jax.device_count(), 1))
    dtype = _DTYPE.value or config["model.dtype"]
    save_folder(
        out, policy.config, params, policy.tokenizer,
        dtype=dtype, stop_ids=policy.stop_ids,
    )  # fmt: skip
    print(f"{out}: campaign {checkpoint.campaign}, step {checkpoint.step}, {dtype}")


def run() -> None:
    """Run the command."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # torch is not needed here
    usage = "--checkpoint=RUN:kept --out=FOLDER"
    run_command(main, Command("export", "selfreg.export", usage))


if __name__ == "__main__":
    run()
