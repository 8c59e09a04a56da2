"""What the guard is told, what it remembers, and what it answers: frozen, and plain as JSON."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import NamedTuple

import numpy as np


class Source(StrEnum):
    """What a guard watches, which decides how its alpha is shared out."""

    PANEL = "panel"
    LOG = "log"
    BOTH = "both"


# Of alpha: for the panel, and for the log.
SHARES = {Source.PANEL: (1.0, 0.0), Source.LOG: (0.0, 1.0), Source.BOTH: (0.8, 0.2)}


@dataclass(frozen=True, slots=True)
class Settings:
    """What is fixed before the first look: the guarantee is for these.

    Attributes:
      alpha: The most probability of any false alarm in a whole run.
      margin: A fall of the mean reward that is no collapse yet.
      planned: Looks of the whole run; None: unknown. A run that lasts longer is covered too.
      planned_steps: Ditto, logged rewards.
      restores: Times that the run may go back and on; an episode may spend alpha / (1 + restores).
      source: Of the evidence.
      confirm: Ask for a second panel before it is certain: half of alpha is kept for its answers.
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
    """The panel at a step: the mean reward of each problem, always in the same order."""

    step: int
    rates: Sequence[float]


@dataclass(frozen=True, slots=True)
class Logged:
    """The mean reward of a training step, as a log has it."""

    step: int
    reward: float


@dataclass(frozen=True, slots=True)
class Restored:
    """The run went back to the checkpoint of `step`, and goes on: a new episode."""

    step: int


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The answer to CONFIRM: both policies, measured on one panel of other problems.

    Attributes:
      step: Of the current policy.
      reference: Mean reward of each problem under the checkpoint that was asked for.
      current: Ditto, under the current policy.
    """

    step: int
    reference: Sequence[float]
    current: Sequence[float]


Observation = Look | Logged | Restored | Confirmed


class Verdict(StrEnum):
    """What to do now."""

    CONTINUE = "continue"
    CONFIRM = "confirm"  # measure the reference and the current policy on a second panel
    ALARM = "alarm"


class Decision(NamedTuple):
    """What the guard says after an observation.

    Attributes:
      verdict: What to do.
      log_evidence: The largest so far in this episode, over the alarm line, nats: an alarm from 0.
      fall: Of the panel's mean, where its evidence was largest; with a log alone, of the moving
        average, from its best to now. None before there is any.
      reference: The step to go back to, whose moving average was best; None before there is any.
      since: The first step of the panel's block that is worse; None without.
      episode: From 1; a restore begins the next.
      level: What this episode may spend of alpha.
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
    """The strongest evidence so far in an episode; steps are the run's, and inclusive."""

    log_evidence: float
    fall: float
    reference: tuple[int, int]
    present: tuple[int, int]


# Arrays are compared by nobody: two states are equal where their JSON is.
@dataclass(frozen=True, slots=True, eq=False)
class State:
    """All that the guard remembers.

    Attributes:
      settings: As they were at the start.
      episode: From 1.
      steps: int64 [t], of the looks of this episode.
      sums: float64 [t + 1, N], of the rates over the looks before; empty before the first.
      found: The panel's strongest evidence of this episode.
      average: Moving average of the panel's mean, e = (e + panel) / 2; without a panel, of the
        logged rewards, e = e + (reward - e) / 8.
      best: The largest of these.
      best_step: Where that was: the checkpoint to go back to.
      reward_steps: int64 [u], of the logged rewards of this episode.
      rewards: float64 [u].
      log_sum: The sum of weight x E of the log.
      asked: Confirmations asked for, over the whole run.
      waits: Whether the last of them has no answer yet.
      answered: Looks of this episode when the last answer came.
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
    """A state as one line of JSON, without NaN or infinities."""
    plain = {name: getattr(state, name) for name in State.__dataclass_fields__}
    plain |= {name: v.tolist() for name, v in plain.items() if isinstance(v, np.ndarray)}
    plain |= {"settings": asdict(state.settings), "found": state.found and asdict(state.found)}
    return json.dumps(plain, allow_nan=False)


def from_json(text: str) -> State:
    """The state that `to_json` wrote; it goes on to the bit.

    Raises:
      ValueError: It is no such state.
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
        raise ValueError(f"this is no state of the guard: {error!r}") from None
