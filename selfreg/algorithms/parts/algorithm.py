"""The Algorithm record: how graded completions become a loss."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from selfreg.algorithms.parts.batch import Batch
from selfreg.algorithms.parts.keys import Rule
from selfreg.algorithms.parts.settings import Settings

Array = Any  # a jax.Array; configs must load without importing jax


class Tokens(NamedTuple):
    """The tokens of one microbatch, as a token loss receives them: several completions per row.

    Attributes:
      logprobs: float32 [rows, T], the trained policy's. The gradient flows through them.
      sampler_logprobs: float32 [rows, T], the sampler's, from when it drew the tokens.
      advantages: float32 [rows, T], the advantage of each token's completion.
      mask: float32 [rows, T], 1 on tokens, 0 on padding.
      completion: int32 [rows, T], the index of each token's completion. A completion never spans
        two rows.
      total: B, the number of completions in the batch. Every index in `completion` is below it.
      marks: float32 [rows, T], the result of the algorithm's `mark`. None if it has no `mark`.
    """

    logprobs: Array
    sampler_logprobs: Array
    advantages: Array
    mask: Array
    completion: Array
    total: int
    marks: Array = None


class PairLoss(NamedTuple):
    """The result of a pair loss. Each pair is a completion that passed and one that did not.

    Attributes:
      loss: float64, the loss of each pair.
      slope: float64, the loss's derivative with respect to the pair's difference of log ratios.
      margin: float64, above 0 where the policy ranks the passing completion first.
    """

    loss: np.ndarray
    slope: np.ndarray
    margin: np.ndarray


def reward_itself(settings: Any, rewards: np.ndarray) -> np.ndarray:
    """Return the coded reward, REINFORCE's advantage (Williams 1992, without a baseline)."""
    return rewards


def log_probability(settings: Any, tokens: Tokens) -> tuple[Array, dict[str, Array]]:
    """Return REINFORCE's loss of each token, -A log pi(token)."""
    return -tokens.advantages * tokens.logprobs, {}


@dataclass(frozen=True)
class Algorithm:
    """One update rule. It is hashable, so it can be part of a jit cache key.

    The first argument of every function is the settings, with the config's values filled in.

    Attributes:
      paper: The paper's authors, its identifier, and the equation.
      settings: A frozen dataclass whose fields are keys of config.learn. Its values are the
        algorithm's defaults, used where the config sets nothing. It must have `token_aggregation`.
      advantages: (settings, coded rewards float32 [G]) -> float32 [G], for one group.
      token_loss: (settings, Tokens) -> (the loss of each token, float32 [rows, T], and a dict of
        per-token values, 0 on padding). The values' means over the batch become metrics.
      pair_loss: (settings, differences float64 [...]) -> PairLoss. A pair's difference is
        log r of the completion that passed minus log r of the other, with r = policy / reference.
        The update descends the mean over pairs and does not call `advantages`. None: the algorithm
        does not compare pairs.
      mark: (settings, the policy's own logprobs float32 [B, T], batch, random generator) -> float32
        [B, T]. It runs on the host before the gradient, and passes the token loss facts about a
        token that depend on the whole batch. None: the token loss needs no marks.
      check: settings -> rules for keys of the config, by dotted name.
      fixed: Settings that must keep the algorithm's value. A config may not set them.
      name: The name in metrics and messages, which is the name of the algorithm's file.
    """

    paper: str
    settings: Any = field(default_factory=Settings)
    advantages: Callable[[Any, np.ndarray], np.ndarray] = reward_itself
    token_loss: Callable[[Any, Tokens], tuple[Array, dict[str, Array]]] = log_probability
    pair_loss: Callable[[Any, np.ndarray], PairLoss] | None = None
    mark: Callable[[Any, np.ndarray, Batch, np.random.Generator], np.ndarray] | None = None
    check: Callable[[Any], Mapping[str, Rule]] = lambda _: {}
    fixed: tuple[str, ...] = ()
    name: str = ""

    @property
    def needs_reference(self) -> bool:
        """Whether each update needs a reference policy's logprobs even without a KL penalty."""
        return self.pair_loss is not None

    @property
    def needs_own_logprobs(self) -> bool:
        """Whether each update needs the policy's own logprobs before it computes the gradient."""
        return self.pair_loss is not None or self.mark is not None
