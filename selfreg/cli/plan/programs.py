"""Lower a config's programs from shapes, for any mesh. Nothing is loaded, computed or compiled.

The shapes are the largest that the config allows: every prompt and every completion has its longest
length.
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
    """Make the learner of a config without weights. It can lower its programs, but not run them.

    Args:
      config: The resolved config.
      job: The job of the config.
      mesh: A mesh of real or of described devices.
    """
    policy = make_policy(
        job.decoder, _tokenizer(), remat=config.model.remat, attention=config.model.attention
    )
    return learner_of(config, policy, mesh, packing_of(config, mesh), None)


def lower_learning(learner: Learner, config: Any, job: Job, mesh: Mesh) -> dict[str, Lower]:
    """Return functions that lower the learner's programs, by name: see Learner.lower."""
    packing, train = packing_of(config, mesh), job.train
    batch = empty_batch(train.problems, train.group, job.prompt, job.max_new_tokens, packing)
    return learner.lower(batch, reference=job.scorings > 0, anchored=job.uses_ewc)


def lower_decoding(
    learner: Learner, config: Any, job: Job, draws: Draws, mesh: Mesh
) -> dict[str, Lower]:
    """Return functions that lower the engine's programs for one turn of these draws, by name.

    See JaxEngine.lower.
    """
    model = config.model
    policy = make_policy(job.decoder, _tokenizer(), attention=model.attention)
    engine = JaxEngine(policy, mesh, dtype=model.dtype, max_sequences=config.rollout.max_sequences)
    given = learner.merged(learner.like.params)
    return engine.lower(given, draws.problems, draws.group, job.prompt, sampling_of(config))


def microbatches(config: Any, job: Job, mesh: Mesh) -> int:
    """Count the microbatches of a step whose completions all have the longest length."""
    packing, longest = packing_of(config, mesh), job.max_new_tokens
    lengths = np.full((job.train.problems, job.train.group), longest)
    rows = (pack(lengths, longest, packing) != EMPTY).any(axis=2).sum(axis=1)
    return int(np.sum(-(-rows // packing.microbatch_rows)))


def _tokenizer() -> Any:
    # Any tokenizer will do: programs depend only on the token that ends a completion.
    return open_policy("tiny")[0].tokenizer
