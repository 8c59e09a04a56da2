"""The guard as a pure function: observe(state, observation) -> (state, decision)."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from selfreg.guard import logged, panel
from selfreg.guard.records import (
    SHARES,
    Confirmed,
    Decision,
    Found,
    Logged,
    Look,
    Observation,
    Restored,
    Settings,
    Source,
    State,
    Verdict,
)
from selfreg.guard.signflip import log_p
from selfreg.guard.weights import anytime, blocks

ASK_AT = math.log(0.01)  # at this log p of a block the guard asks for a second panel
LOG_AVERAGE = 1 / 8  # weight of a logged reward in the moving average
CONFIRM_SHARE = 0.5  # share of the panel's level that is kept for confirmations


def start(settings: Settings) -> State:
    """Return the state before the first observation."""
    return State(settings)


def observe(state: State, seen: Observation) -> tuple[State, Decision]:
    """Update the guard with one observation.

    Raises:
      ValueError: The observation cannot follow the earlier ones, or holds a non-finite number.
    """
    if isinstance(seen, Look):
        state = _look(state, seen)
    elif isinstance(seen, Logged):
        state = _logged(state, seen)
    elif isinstance(seen, Confirmed):
        state = _confirmed(state, seen)
    else:
        state = _restored(state, seen)
    asks = _asks(state, seen)
    if asks:
        state = replace(state, asked=state.asked + 1, waits=True)
    return state, _decision(state, asks)


def level(settings: Settings) -> float:
    """Return the share of alpha that one episode may spend: alpha / (1 + restores)."""
    return settings.alpha / (1 + settings.restores)


def _levels(settings: Settings) -> tuple[float, float, float]:
    """Split the level: panel looks per episode, log per episode, confirmations per run."""
    of_panel, of_log = (share * level(settings) for share in SHARES[settings.source])
    if not settings.confirm:
        return of_panel, of_log, 0.0
    # Confirmations are counted over the whole run, so their level is not split between episodes.
    asked = CONFIRM_SHARE * SHARES[settings.source][0] * settings.alpha
    return (1 - CONFIRM_SHARE) * of_panel, of_log, asked


def _look(state: State, seen: Look) -> State:
    settings = state.settings
    if settings.source is Source.LOG:
        raise ValueError(f"a look at step {seen.step}, but settings.source is 'log'")
    rates = _row(seen.rates, f"the look at step {seen.step}")
    if len(state.steps) and len(rates) != state.sums.shape[1]:
        raise ValueError(
            f"the look at step {seen.step} has {len(rates)} problems, earlier looks had "
            f"{state.sums.shape[1]}: every look needs the same problems in the same order"
        )
    _check_order(state.steps, seen.step, "look")
    if not len(state.steps):
        _check_size(settings, len(rates))
    steps = np.append(state.steps, seen.step)
    before = state.sums if len(state.steps) else np.zeros((1, len(rates)))
    sums = np.vstack([before, before[-1] + rates])
    alpha = _levels(settings)[0]
    new = panel.strongest(sums, settings.margin, settings.planned, alpha)
    found = state.found
    if new is not None and (found is None or new.log_evidence > found.log_evidence):
        spans = [(int(steps[first]), int(steps[end - 1])) for first, end in new[3:]]
        found = Found(new.log_evidence, new.fall, *spans)
    state = _average(state, seen.step, float(rates.mean()), 1 / 2)
    return replace(state, steps=steps, sums=sums, found=found)


def _average(state: State, step: int, value: float, share: float) -> State:
    """Update the exponential moving average, and record the step where it was largest."""
    average = value if state.average is None else state.average + share * (value - state.average)
    if state.best is None or average >= state.best:
        return replace(state, average=average, best=average, best_step=step)
    return replace(state, average=average)


def _logged(state: State, seen: Logged) -> State:
    settings = state.settings
    if settings.source is Source.PANEL:
        raise ValueError(f"a logged reward at step {seen.step}, but settings.source is 'panel'")
    if not math.isfinite(seen.reward):
        raise ValueError(f"the reward of step {seen.step} is {seen.reward!r}, not a finite number")
    _check_order(state.reward_steps, seen.step, "logged reward")
    rewards = np.append(state.rewards, float(seen.reward))
    alpha = _levels(settings)[1]
    gain = logged.gain(rewards, settings.margin, settings.planned_steps, alpha)
    steps = np.append(state.reward_steps, seen.step)
    if settings.source is Source.LOG:
        state = _average(state, seen.step, float(seen.reward), LOG_AVERAGE)
    return replace(state, reward_steps=steps, rewards=rewards, log_sum=state.log_sum + gain)


def _restored(state: State, seen: Restored) -> State:
    if state.episode > state.settings.restores:
        raise ValueError(
            f"a restore to step {seen.step}, but settings.restores={state.settings.restores} "
            "are used up: alpha was split among that many"
        )
    return State(state.settings, episode=state.episode + 1, asked=state.asked)


def _confirmed(state: State, seen: Confirmed) -> State:
    if not state.waits:
        raise ValueError(f"a confirmation at step {seen.step} that nobody asked for")
    before, now = (_row(r, "the confirmation") for r in (seen.reference, seen.current))
    if len(before) != len(now):
        raise ValueError(
            f"a confirmation of {len(before)} problems before and {len(now)} now: "
            "both policies need the same panel"
        )
    evidence = math.log(anytime(state.asked)) - log_p(before - now - state.settings.margin)
    if state.confirmed is not None:
        evidence = max(evidence, state.confirmed)
    return replace(state, confirmed=evidence, waits=False, answered=len(state.steps))


def _asks(state: State, seen: Observation) -> bool:
    """Return whether this look calls for a second panel.

    Only blocks of looks made after the last confirmation count.
    """
    looks = len(state.steps)
    if not (state.settings.confirm and isinstance(seen, Look) and looks > 1) or state.waits:
        return False
    compared = blocks(looks)
    fallen = panel.falls(state.sums, compared, looks, state.settings.margin)
    fresh = looks - compared.lengths >= state.answered
    # A p of 0.01 rarely has a smaller z. Missing one delays the question, and costs nothing else.
    large = fallen.sum(axis=-1) >= 2 * np.sqrt(np.einsum("bi,bi->b", fallen, fallen))
    return any(log_p(fallen[at]) <= ASK_AT for at in np.flatnonzero(fresh & large))


def _decision(state: State, asks: bool) -> Decision:
    settings, found = state.settings, state.found
    of_panel, of_log, of_answers = _levels(settings)
    evidence = [-math.inf]
    if found is not None:
        evidence.append(found.log_evidence + math.log(of_panel))
    if state.log_sum > 0:
        evidence.append(math.log(state.log_sum) + math.log(of_log))
    if state.confirmed is not None:
        evidence.append(state.confirmed + math.log(of_answers))
    largest = max(evidence)
    fall = found.fall if found else None
    if settings.source is Source.LOG and state.best is not None and state.average is not None:
        fall = state.best - state.average
    verdict = Verdict.CONFIRM if asks else Verdict.CONTINUE
    return Decision(
        Verdict.ALARM if largest >= 0 else verdict,
        largest,
        fall,
        state.best_step,
        found.present[0] if found else None,
        state.episode,
        level(settings),
    )


def _row(values: Sequence[float], what: str) -> np.ndarray:
    row = np.asarray(values, np.float64)
    if row.ndim != 1 or not len(row) or not np.isfinite(row).all():
        raise ValueError(f"{what} must hold one finite number per problem, got {values!r:.200}")
    return row


def _check_order(steps: np.ndarray, step: int, what: str) -> None:
    if len(steps) and step <= steps[-1]:
        raise ValueError(
            f"a {what} of step {step} follows that of step {steps[-1]}: steps must increase"
        )


def _check_size(settings: Settings, problems: int) -> None:
    """Raise if the panel has too few problems ever to raise an alarm."""
    looks = settings.planned or 2
    first, *_ = panel.log_weights(blocks(looks), looks, settings.planned)
    needed = math.ceil(-(first + math.log(_levels(settings)[0])) / math.log(2))
    if problems < needed:
        raise ValueError(
            f"a panel of {problems} problems could never alarm at alpha={settings.alpha}: "
            f"p is at least 1 / 2^{problems}; measure at least {needed} problems"
        )
