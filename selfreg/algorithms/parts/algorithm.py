"""An algorithm: how graded completions become a loss."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from selfreg.algorithms.parts.batch import Batch
from selfreg.algorithms.parts.keys import Rule
from selfreg.algorithms.parts.settings import Settings

Array = Any  # of jax, which settings are read without


class Tokens(NamedTuple):
    """What a token loss sees of one microbatch: the tokens of several completions, in rows.

    Attributes:
      logprobs: float32 [rows, T], of the policy that learns; the gradient goes through them.
      sampler_logprobs: float32 [rows, T], when the tokens were drawn.
      advantages: float32 [rows, T], of the completion that each token belongs to.
      mask: float32 [rows, T], 1 on tokens, 0 on padding.
      completion: int32 [rows, T], which completion each token is of; each lies in one row.
      total: B, above every number in `completion`.
      marks: float32 [rows, T], what the algorithm's `mark` said of each token; None without one.
    """

    logprobs: Array
    sampler_logprobs: Array
    advantages: Array
    mask: Array
    completion: Array
    total: int
    marks: Array = None


class PairLoss(NamedTuple):
    """What a pair loss says of pairs of a completion that passed and one that did not.

    Attributes:
      loss: float64, of each pair.
      slope: float64, its derivative by the pair's difference of log ratios.
      margin: float64, by how much the loss takes the pair to be in order: above 0 where it is.
    """

    loss: np.ndarray
    slope: np.ndarray
    margin: np.ndarray


def reward_itself(settings: Any, rewards: np.ndarray) -> np.ndarray:
    """REINFORCE's advantage: the coded reward (Williams 1992, without a baseline)."""
    return rewards


def log_probability(settings: Any, tokens: Tokens) -> tuple[Array, dict[str, Array]]:
    """REINFORCE's loss of each token: -A log pi(token)."""
    return -tokens.advantages * tokens.logprobs, {}


@dataclass(frozen=True)
class Algorithm:
    """One update rule. Hashable, so that programs are compiled for it.

    Every function takes the settings first, as the config left them.

    Attributes:
      paper: Who published it, where, and the equation.
      settings: A frozen dataclass whose fields are keys of config.learn; its values are what the
        algorithm sets where a config leaves them open. It has `token_aggregation`.
      advantages: (settings, coded rewards float32 [G]) -> float32 [G], of one group.
      token_loss: (settings, Tokens) -> the loss of each token, float32 [rows, T], and named numbers
        of each token, 0 on padding, whose means over the batch become metrics.
      pair_loss: (settings, differences float64 [...]) -> PairLoss; the difference of a pair is
        log r of the completion that passed less log r of the other, r = policy / reference. The
        update descends its mean over pairs, and `advantages` are not asked. None: no pairs.
      mark: (settings, the policy's own logprobs float32 [B, T], batch, a generator) -> float32
        [B, T], on the host and before the gradient: what the token loss is to know of a token that
        takes the whole batch to tell. None: nothing.
      check: settings -> rules for keys of the config, by dotted name.
      fixed: Fields of the settings that it reads no other value of: a config may not set them.
      name: What metrics and messages call it: the name of its file.
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
        """Whether each update needs the logprobs of a reference policy, KL penalty or not."""
        return self.pair_loss is not None

    @property
    def needs_own_logprobs(self) -> bool:
        """Whether each update needs the policy's own logprobs before its gradient."""
        return self.pair_loss is not None or self.mark is not None
