"""A config's programs, lowered from shapes for any mesh: nothing is loaded, computed or compiled.

The shapes are those of the config's limits: every prompt and every completion as long as it may be.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from selfreg.cli.plan.job import Draws, Job
from selfreg.loop.stages import learner_of, packing_of, sampling_of
from selfreg.policy.learn.collate import empty_batch
from selfreg.policy.learn.packing import EMPTY, pack
from selfreg.policy.mesh import with_shardings
from selfreg.policy.models.decoder import layout
from selfreg.policy.models.lora import freeze
from selfreg.policy.models.policy import abstract_params, make_policy, open_policy
from selfreg.policy.rollout.jax_engine import JaxEngine

Lower = Callable[[], jax.stages.Lowered]


def lower_learning(config: Any, job: Job, mesh: Mesh) -> dict[str, Lower]:
    """The learner's programs by name, as selfreg.policy.learn.learner.Lower has them.

    Args:
      config: Resolved.
      job: Of the config.
      mesh: Its devices may be described ones.
    """
    packing, train = packing_of(config, mesh), job.train
    policy = make_policy(
        job.decoder, _tokenizer(), remat=config.model.remat, attention=config.model.attention
    )
    batch = empty_batch(train.problems, train.group, job.prompt, job.max_new_tokens, packing)
    learner = learner_of(config, policy, mesh, packing, None)
    return learner.lower(batch, reference=job.scorings > 0, anchored=job.uses_ewc)


def lower_decoding(config: Any, job: Job, draws: Draws, mesh: Mesh) -> dict[str, Lower]:
    """The engine's programs for one turn of these draws: see JaxEngine.lower."""
    model, decoder = config.model, job.decoder
    policy = make_policy(decoder, _tokenizer(), attention=model.attention)
    params = abstract_params(policy)
    if model.lora_rank:  # merged, and in the type of frozen weights
        params = jax.eval_shape(partial(freeze, dtype=jnp.dtype(model.dtype)), params)
    params = with_shardings(params, layout(decoder, mesh, params))
    sequences = config.rollout.max_sequences
    engine = JaxEngine(policy, mesh, dtype=model.dtype, max_sequences=sequences)
    return engine.lower(params, draws.problems, draws.group, job.prompt, sampling_of(config))


def microbatches(config: Any, job: Job, mesh: Mesh) -> int:
    """Microbatches of a step whose completions are all as long as they may be."""
    packing, longest = packing_of(config, mesh), job.max_new_tokens
    lengths = np.full((job.train.problems, job.train.group), longest)
    rows = (pack(lengths, longest, packing) != EMPTY).any(axis=2).sum(axis=1)
    return int(np.sum(-(-rows // packing.microbatch_rows)))


def _tokenizer() -> Any:
    # Programs depend on which token ends a completion, and on no more: any tokenizer will do.
    return open_policy("tiny")[0].tokenizer
