"""The guard's input, state and output, as frozen records that convert to plain JSON."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import NamedTuple

import numpy as np


class Source(StrEnum):
    """The data that a guard watches. It decides how alpha is split."""

    PANEL = "panel"
    LOG = "log"
    BOTH = "both"


# Shares of alpha: (panel, log).
SHARES = {Source.PANEL: (1.0, 0.0), Source.LOG: (0.0, 1.0), Source.BOTH: (0.8, 0.2)}


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings that must be fixed before the first look, because the guarantee depends on them.

    Attributes:
      alpha: Upper bound of the probability of any false alarm in a whole run.
      margin: The largest fall in mean reward that does not count as a collapse.
      planned: Looks of the whole run; None if unknown. The guarantee also covers a longer run.
      planned_steps: Logged rewards of the whole run; None if unknown. A longer run is covered too.
      restores: How often the run may restore a checkpoint and continue. Each episode may spend
        alpha / (1 + restores).
      source: Where the evidence comes from.
      confirm: Ask for a second panel before the evidence is conclusive. Half of the panel's level
        is kept for the confirmations.
    """

    alpha: float = 0.05
    margin: float = 0.02
    planned: int | None = None
    planned_steps: int | None = None
    restores: int = 0
    source: Source = Source.PANEL
    confirm: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 0.5:
            raise ValueError(f"alpha={self.alpha!r} must lie between 0 and 0.5")
        if not 0 <= self.margin < math.inf:
            raise ValueError(f"margin={self.margin!r} must be a number of at least 0")
        for name in ("planned", "planned_steps"):
            value = getattr(self, name)
            if value is not None and value < 2:
                raise ValueError(f"{name}={value!r} must be at least 2, or None for unknown")
        if self.restores < 0:
            raise ValueError(f"restores={self.restores!r} must be at least 0")
        if self.confirm and self.source is Source.LOG:
            raise ValueError("confirm=True asks for a panel, and source='log' has none")


@dataclass(frozen=True, slots=True)
class Look:
    """A panel measured at a step: the mean reward of each problem, always in the same order."""

    step: int
    rates: Sequence[float]


@dataclass(frozen=True, slots=True)
class Logged:
    """The mean reward of a training step, read from a log."""

    step: int
    reward: float


@dataclass(frozen=True, slots=True)
class Restored:
    """The run restored the checkpoint of `step` and continues, which starts a new episode."""

    step: int


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The answer to CONFIRM: both policies measured on one panel of other problems.

    Attributes:
      step: Step of the current policy.
      reference: Mean reward of each problem under the reference checkpoint.
      current: Mean reward of each problem under the current policy.
    """

    step: int
    reference: Sequence[float]
    current: Sequence[float]


Observation = Look | Logged | Restored | Confirmed


class Verdict(StrEnum):
    """The action that the guard asks for."""

    CONTINUE = "continue"
    CONFIRM = "confirm"  # measure the reference and the current policy on a second panel
    ALARM = "alarm"


class Decision(NamedTuple):
    """The guard's answer to an observation.

    Attributes:
      verdict: The action that the guard asks for.
      log_evidence: Largest evidence of this episode so far minus the alarm threshold, in nats. The
        guard alarms from 0 on.
      fall: Fall of the panel's mean in the comparison with the most evidence. With a log alone:
        fall of the moving average from its best to now. None before there is any evidence.
      reference: The step with the best moving average, to which a run should return; None before
        the first measurement.
      since: First step of the panel's present block in that comparison; None without one.
      episode: Number of the episode, from 1; each restore begins the next.
      level: Share of alpha that this episode may spend.
    """

    verdict: Verdict
    log_evidence: float
    fall: float | None
    reference: int | None
    since: int | None
    episode: int
    level: float


@dataclass(frozen=True, slots=True)
class Found:
    """The strongest evidence so far in an episode.

    Both spans are (first, last) training steps, ends included.
    """

    log_evidence: float
    fall: float
    reference: tuple[int, int]
    present: tuple[int, int]


# Arrays rule out a generated __eq__. Compare the JSON of two states instead.
@dataclass(frozen=True, slots=True, eq=False)
class State:
    """The complete memory of the guard.

    Attributes:
      settings: Settings from the start of the run.
      episode: Number of the episode, from 1.
      steps: int64 [t], steps of the looks of this episode.
      sums: float64 [t + 1, N], cumulative sums of the rates: row i sums the first i looks. Empty
        before the first look.
      found: The panel's strongest evidence of this episode.
      average: Moving average of the panel's mean, e = (e + panel) / 2. Without a panel: of the
        logged rewards, e = e + (reward - e) / 8.
      best: Largest value of the moving average.
      best_step: Step of that value: the checkpoint to return to.
      reward_steps: int64 [u], steps of the logged rewards of this episode.
      rewards: float64 [u], the logged rewards of this episode.
      log_sum: Sum of weight x E from the log.
      asked: Confirmations requested in the whole run.
      waits: Whether the last request is still unanswered.
      answered: Number of looks in this episode when the last answer came.
      confirmed: log(weight / p) of the strongest answer of this episode.
    """

    settings: Settings
    episode: int = 1
    steps: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    sums: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    found: Found | None = None
    average: float | None = None
    best: float | None = None
    best_step: int | None = None
    reward_steps: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    rewards: np.ndarray = field(default_factory=lambda: np.zeros(0))
    log_sum: float = 0.0
    asked: int = 0
    waits: bool = False
    answered: int = 0
    confirmed: float | None = None


def to_json(state: State) -> str:
    """Format a state as one line of JSON, without NaN or infinities."""
    plain = {name: getattr(state, name) for name in State.__dataclass_fields__}
    plain |= {name: v.tolist() for name, v in plain.items() if isinstance(v, np.ndarray)}
    plain |= {"settings": asdict(state.settings), "found": state.found and asdict(state.found)}
    return json.dumps(plain, allow_nan=False)


def from_json(text: str) -> State:
    """Parse a state that `to_json` wrote. The guard then continues exactly.

    Raises:
      ValueError: The text is not a state of the guard.
    """
    try:
        plain = json.loads(text)
        settings = plain["settings"]
        plain["settings"] = Settings(**{**settings, "source": Source(settings["source"])})
        if found := plain["found"]:
            spans = {name: tuple(found[name]) for name in ("reference", "present")}
            plain["found"] = Found(**{**found, **spans})
        for name in ("steps", "reward_steps"):
            plain[name] = np.array(plain[name], np.int64)
        for name in ("sums", "rewards"):
            plain[name] = np.array(plain[name], np.float64)
        plain["sums"] = plain["sums"].reshape(len(plain["sums"]), -1 if plain["sums"].size else 0)
        return State(**plain)
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"this is not a state of the guard: {error!r}") from None
