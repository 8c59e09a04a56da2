"""A config's programs, lowered from shapes for any mesh: nothing is loaded, computed or compiled.

The shapes are those of the config's limits: every prompt and every completion as long as it may be.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from selfreg.cli.plan.job import Draws, Job
from selfreg.loop.stages import learner_of, packing_of, sampling_of
from selfreg.policy.learn.collate import empty_batch
from selfreg.policy.learn.learner import Learner
from selfreg.policy.learn.packing import EMPTY, pack
from selfreg.policy.models.policy import make_policy, open_policy
from selfreg.policy.rollout.jax_engine import JaxEngine

Lower = Callable[[], jax.stages.Lowered]


def learner_without_weights(config: Any, job: Job, mesh: Mesh) -> Learner:
    """The learner of a config: it can lower its programs, and has nothing to run them on.

    Args:
      config: Resolved.
      job: Of the config.
      mesh: Its devices may be described ones.
    """
    policy = make_policy(
        job.decoder, _tokenizer(), remat=config.model.remat, attention=config.model.attention
    )
    return learner_of(config, policy, mesh, packing_of(config, mesh), None)


def lower_learning(learner: Learner, config: Any, job: Job, mesh: Mesh) -> dict[str, Lower]:
    """The learner's programs by name, as selfreg.learn.learner.Lower has them."""
    packing, train = packing_of(config, mesh), job.train
    batch = empty_batch(train.problems, train.group, job.prompt, job.max_new_tokens, packing)
    return learner.lower(batch, reference=job.scorings > 0, anchored=job.uses_ewc)


def lower_decoding(
    learner: Learner, config: Any, job: Job, draws: Draws, mesh: Mesh
) -> dict[str, Lower]:
    """The engine's programs for one turn of these draws: see JaxEngine.lower."""
    model = config.model
    policy = make_policy(job.decoder, _tokenizer(), attention=model.attention)
    engine = JaxEngine(policy, mesh, dtype=model.dtype, max_sequences=config.rollout.max_sequences)
    given = learner.merged(learner.like.params)
    return engine.lower(given, draws.problems, draws.group, job.prompt, sampling_of(config))


def microbatches(config: Any, job: Job, mesh: Mesh) -> int:
    """Microbatches of a step whose completions are all as long as they may be."""
    packing, longest = packing_of(config, mesh), job.max_new_tokens
    lengths = np.full((job.train.problems, job.train.group), longest)
    rows = (pack(lengths, longest, packing) != EMPTY).any(axis=2).sum(axis=1)
    return int(np.sum(-(-rows // packing.microbatch_rows)))


def _tokenizer() -> Any:
    # Programs depend on which token ends a completion, and on no more: any tokenizer will do.
    return open_policy("tiny")[0].tokenizer
