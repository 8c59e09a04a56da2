"""Subjects of the measurements: a named policy, a learner for it, and a batch of given lengths."""

import gc
from typing import Any

import jax
import numpy as np

from selfreg.algorithms.parts.batch import Batch
from selfreg.policy.learn.learner import Learner, make_learner
from selfreg.policy.learn.optim import make_optimizer
from selfreg.policy.learn.packing import Packing, pack
from selfreg.policy.learn.train_step import LearnSettings
from selfreg.policy.mesh import make_mesh
from selfreg.policy.models.decoder import DecoderConfig
from selfreg.policy.models.policy import Policy, load_policy, make_policy, random_params
from selfreg.policy.models.presets import shape_of

RANDOM = "random:"
TEMPERATURE, LR = 0.7, 1e-5
CHUNK_TOKENS = 1024


def named_policy(name: str, *, remat: str = "none") -> tuple[Policy, Any]:
    """Load a policy and its weights: tiny, smollm2, a folder, or random:NAME for a known shape."""
    if not name.startswith(RANDOM):
        return load_policy(name, remat=remat)
    policy = of_shape(shape_of(name.removeprefix(RANDOM)), remat=remat)
    return policy, random_params(policy.config, seed=0)


def of_shape(config: DecoderConfig, *, remat: str = "none") -> Policy:
    """Make a policy of a given shape, with the tiny policy's tokenizer."""
    return make_policy(config, load_policy("tiny")[0].tokenizer, remat=remat)


def learner_of(
    policy: Policy,
    *,
    dtype: str,
    packing: Packing,
    moments: str = "float32",
) -> Learner:
    """Make a learner with gradient clipping and Adam, whose moments have the dtype `moments`."""
    rule = make_optimizer(
        b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.0, clip_norm=1.0, state_dtype=moments
    )
    settings = LearnSettings(dtype, CHUNK_TOKENS, packing)
    return make_learner(policy, make_mesh(-1, 1, 1), rule, settings)


def random_batch(
    vocabulary: int, prompt: int, completion: int, rows: int, packing: Packing
) -> Batch:
    """Make a batch of one problem and a group of completions of equal length.

    Args:
      vocabulary: The vocabulary's size.
      prompt: The number of tokens in the prompt.
      completion: The number of tokens in each completion.
      rows: The number of completions.
      packing: The rows that hold them.
    """
    generator = np.random.default_rng(0)
    shape = (rows, completion)
    question = generator.integers(3, vocabulary, (1, prompt)).astype(np.int32)
    return Batch(
        prompt_ids=question,
        prompt_lengths=np.array([prompt], np.int32),
        completion_ids=generator.integers(3, vocabulary, shape).astype(np.int32),
        completion_mask=np.ones(shape, np.float32),
        logprobs=np.zeros(shape, np.float32),
        advantages=generator.choice([-1.0, 1.0], rows).astype(np.float32),
        token_weights=np.full(shape, 1 / (rows * completion), np.float32),
        slots=pack(np.full((1, rows), completion), completion, packing),
    )


class Updates:
    """Repeated updates of one policy on one batch. The options are those of learner_of."""

    def __init__(self, policy: Policy, params: Any, batch: Batch, **options: Any):
        self.learner = learner_of(policy, **options)
        self._batch = batch
        self.state = self.learner.init(params)
        gc.collect()

    def __call__(self) -> None:
        """Make one update and wait for it."""
        self.state, metrics = self.learner.update(
            self.state, self._batch, None, LR, 0.0, TEMPERATURE
        )
        jax.block_until_ready((self.state, metrics))
