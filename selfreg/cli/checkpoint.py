"""Load a checkpoint of a run onto the devices, together with its policy."""

import json
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from selfreg.policy.models.adapted import Adapted
from selfreg.policy.models.decoder import layout
from selfreg.policy.models.lora import frozen_types, trained_shapes
from selfreg.policy.models.policy import Policy, open_policy
from selfreg.policy.models.weights import place
from selfreg.run import rundir
from selfreg.run.checkpoint import restore
from selfreg.run.records import Checkpoint


def open_checkpoint(run: Path, checkpoint: Checkpoint, mesh: Mesh) -> tuple[Policy, Any]:
    """Load the policy of a run, and its weights at a checkpoint.

    The shape and the tokenizer come from the initial model, the run's config.model.path.

    Args:
      run: The run folder.
      checkpoint: A checkpoint that is on disk.
      mesh: The devices for the weights.

    Returns:
      The policy and its weights; `Adapted` weights if the run used LoRA.
    """
    model = json.loads((run / rundir.CONFIG).read_text())["model"]
    policy, weights = open_policy(model["path"])
    shapes = trained_shapes(policy, model["lora_rank"])
    shardings = layout(policy.config, mesh, shapes)
    like = jax.tree.map(
        lambda leaf, s: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=s), shapes, shardings
    )
    params = restore(run / rundir.CHECKPOINTS, checkpoint, {"params": like})["params"]
    if model["lora_rank"]:  # as the learner combines base and adapters
        types = frozen_types(weights, jax.numpy.dtype(model["dtype"]))
        base = place(weights, layout(policy.config, mesh, weights), types)
        params = Adapted(base, params, model["lora_alpha"])
    return policy, params
