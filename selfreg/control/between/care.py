"""CARE in full, for any number of capabilities: the paper's appendix D and Algorithm 1.

Capabilities are "main" and those of config.evaluation.capabilities. After each campaign:

1. Compare its delta (peak - start) with the prediction for its strategy and context.
2. Revise (Definition 7) if the squared Mahalanobis distance exceeds the beta quantile of
   chi-square_K: the boundary loses a cone if a strategy that seemed safe regressed, the posterior
   takes the observation with inflated noise, and
   alpha <- alpha exp(-lambda * number of protected regressions).
3. Store it, with the strategy's new confidence.
4. Gate past strategies and new proposals in the current context; run the best one next.

The mathematics is in selfreg.control.posterior, the memory in .effects, the gate in .transfer and
the proposals in .proposers. Each of them names the slips of the paper that it corrects. The peak
rolls forward, as everywhere in CARE. So "main", read from the control's metric, cannot fall within
a campaign: the peak is at least the start. A pilot has 10 steps. An adapted strategy is halfway
between itself and the base hyperparameters. If everything is rejected, the base hyperparameters are
piloted. The first campaign has no memory and runs them in full (the paper's "cold start").
"""

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from selfreg.control import effects, posterior
from selfreg.control.asked import Asked, check_endpoint, count
from selfreg.control.effects import Effect, Vector
from selfreg.control.history import (
    MAIN,
    capability,
    check_memory,
    entry_of,
    peak_of,
    remembered,
    without_memory,
)
from selfreg.control.proposers import PROPOSERS, Proposer, Situation, Tried, read_answer
from selfreg.control.protocol import Base, Between
from selfreg.control.strategy import FULL, Strategy, base_strategy, halfway, order, words
from selfreg.control.transfer import ADAPT, PILOT, REJECT, Candidate, Levels, choose
from selfreg.run.records import Answer, Checkpoint, Plan, Trace

PILOT_STEPS = 10


@dataclass(frozen=True, slots=True)
class State:
    """The control's state between two campaigns.

    Attributes:
      base: The config's hyperparameters.
      order: The plan of the next campaign.
      strategy: The strategy that this plan applies.
      alpha: The largest regression probability that the gate lets pass now.
      campaign: The number of the next campaign.
      peak: The checkpoint that it starts from; None for the chain's initial policy.
      context: The capabilities there; empty before the first campaign.
      effects: The memory, in order.
      asked: The questions to a language model so far.
    """

    base: Base
    order: Plan
    strategy: Strategy
    alpha: float
    campaign: int = 0
    peak: Checkpoint | None = None
    context: Vector = field(default_factory=dict)
    effects: tuple[Effect, ...] = ()
    asked: Asked = field(default_factory=Asked)


def names_of(base: Base) -> tuple[str, ...]:
    """Return the names of the K capabilities."""
    return tuple(dict.fromkeys((MAIN, *base.capabilities)))


def protected_of(base: Base) -> tuple[str, ...]:
    """Return the capabilities that must not fall: control.protected, or all if it is empty."""
    return tuple(base.options["protected"]) or names_of(base)


def start(base: Base) -> State:
    """Begin with another chain's memory, or none.

    Raises:
      ValueError: An option is impossible, or another control wrote the memory.
    """
    _check_options(base)
    known, alpha = _read_memory(base)
    strategy = base_strategy(base)
    first = base.plan(0, None, "first campaign")
    return State(without_memory(base), first, strategy, alpha, effects=known)


def _check_options(base: Base) -> None:
    options, names = base.options, names_of(base)
    if unknown := set(options["protected"]) - set(names):
        raise ValueError(
            f"config.control.protected names {sorted(unknown)}, but the capabilities are {names}: "
            "config.evaluation.capabilities measures more"
        )
    low, high = options["gamma_low"], options["gamma_high"]
    if low > high:
        raise ValueError(
            f"config.control.gamma_low={low} is above config.control.gamma_high={high}"
        )
    if options["proposer"] not in PROPOSERS:
        raise ValueError(
            f"config.control.proposer={options['proposer']!r}: one of {', '.join(PROPOSERS)}"
        )
    if PROPOSERS[options["proposer"]].ask:
        check_endpoint(base, f"config.control.proposer={options['proposer']!r}")


def _read_memory(base: Base) -> tuple[tuple[Effect, ...], float]:
    memory = check_memory(base, "care")
    try:
        known = tuple(effects.read_effect(row) for row in memory.get("entries", ()))
    except (KeyError, TypeError) as error:
        raise ValueError(f"config.control.memory is not as 'care' writes it: {error!r}") from None
    names = names_of(base)
    for effect in known:
        if tuple(effect.delta) != names:
            raise ValueError(
                f"config.control.memory speaks of {tuple(effect.delta)}, this chain of {names}: "
                "name the same config.evaluation.capabilities"
            )
    return known, memory.get("alpha", base.options["alpha"])


def plan(state: State) -> Plan:
    """Return the gate's plan."""
    return state.order


def observe(state: State, trace: Trace) -> State:
    """Learn from the campaign, then decide the next one."""
    effect, alpha = learn(state, trace)
    state = replace(
        state,
        alpha=alpha,
        campaign=trace.campaign + 1,
        peak=peak_of(trace),
        context={n: capability(trace, "peak", n) for n in names_of(state.base)},
        effects=(*state.effects, effect),
    )
    return decide(state, _proposer(state).propose(situation_of(state)))


def learn(state: State, trace: Trace) -> tuple[Effect, float]:
    """Return the campaign's entry in the memory, and alpha after it."""
    base, names = state.base, names_of(state.base)
    options = base.options
    context = {n: capability(trace, "start", n) for n in names}
    delta = {n: capability(trace, "peak", n) - context[n] for n in names}
    own = effects.of_strategy(state.effects, state.strategy)
    predicted = effects.predict(own, context, options["noise_sd"], options["prior_sd"])
    risk = _risk(predicted, base)
    squared = posterior.squared_distance(effects.array(delta), predicted)
    deltas = np.array([*(effects.array(e.delta) for e in own), effects.array(delta)])
    before = np.array([*(effects.array(e.predicted) for e in own), predicted.mean])
    effect = Effect(
        campaign=trace.campaign,
        strategy=state.strategy,
        action=state.order.action,
        reason=state.order.reason,
        context=context,
        delta=delta,
        predicted=effects.named(names, predicted.mean),
        predicted_sd=effects.named(names, predicted.sd),
        regression_probability=risk,
        distance_squared=squared,
        variance=options["noise_sd"] ** 2,
        cone=None,
        confidence=effects.confidence(deltas, before),
        ratio=entry_of(state.order, trace).ratio,
    )
    if squared > posterior.surprise_limit(len(names), options["beta"]):
        return revise(state, effect, own)
    return effect, state.alpha


def revise(state: State, effect: Effect, own: list[Effect]) -> tuple[Effect, float]:
    """Make the three updates after a surprise: the boundary, the posterior's noise, and alpha."""
    options, protected = state.base.options, protected_of(state.base)
    epsilon = options["epsilon"]
    fallen = [n for n in protected if effect.delta[n] < -epsilon]
    cone = None
    if fallen and effect.regression_probability <= state.alpha:
        harmless = [min(e.delta[n] for n in protected) >= -epsilon for e in own]
        cone = effects.cone_of(own, effect.context, harmless)
    error = effects.array(effect.delta) - effects.array(effect.predicted)
    alpha = state.alpha * math.exp(-options["alpha_decay"] * len(fallen))
    revised = replace(
        effect,
        cone=cone,
        variance=effect.variance + options["surprise_factor"] * float(np.mean(error**2)),
        revision=f"surprised; fallen: {', '.join(fallen) or 'none'}; alpha {alpha:.4f}",
    )
    return revised, alpha


def _risk(prediction: posterior.Prediction, base: Base) -> float:
    """Return p_max, the largest regression probability of the protected capabilities."""
    each = posterior.regression_probability(prediction, base.options["epsilon"])
    return max(effects.named(names_of(base), each)[name] for name in protected_of(base))


def decide(state: State, proposals: tuple[Strategy, ...]) -> State:
    """Gate the memory's strategies and these proposals, and order the best one."""
    base, options = state.base, state.base.options
    levels = Levels(
        state.alpha, options["gamma_low"], options["gamma_high"], options["context_distance"]
    )
    past = dict.fromkeys(effect.strategy for effect in state.effects)
    new = [s for s in dict.fromkeys(proposals) if s not in past]
    chosen = choose([evaluate(state, s) for s in (*past, *new)], levels)
    if chosen is None:
        strategy, action, why = base_strategy(base), REJECT, "everything is rejected, pilot"
    else:
        strategy, action = chosen[0].strategy, chosen[1]
        why = f"{action} {_words(chosen[0])}, alpha {state.alpha:.3f}:"
    applied = halfway(strategy, base_strategy(base)) if action == ADAPT else strategy
    ordered = order(
        base,
        state.campaign,
        state.peak,
        applied,
        f"{why} {words(applied)}",
        action=action,
        most_steps=PILOT_STEPS if action in (PILOT, REJECT) else None,
    )
    return replace(state, order=ordered, strategy=strategy)


def evaluate(state: State, strategy: Strategy) -> Candidate:
    """Evaluate a strategy in the current context."""
    options, context = state.base.options, state.context
    own = effects.of_strategy(state.effects, strategy)
    predicted = effects.predict(own, context, options["noise_sd"], options["prior_sd"])
    return Candidate(
        strategy,
        float(predicted.mean[0]),  # MAIN is the first
        _risk(predicted, state.base),
        own[-1].confidence if own else 0.0,
        effects.distance(own, context),
        effects.is_inside(own, context, options["cone_degrees"]),
        is_new=not own,
    )


def _words(candidate: Candidate) -> str:
    return (
        f"(gain {candidate.target_mean:+.3f}, p_max {candidate.p_max:.3f}, "
        f"gamma {candidate.confidence:.2f})"
    )


def _proposer(state: State) -> Proposer:
    return PROPOSERS[state.base.options["proposer"]]


def situation_of(state: State) -> Situation:
    """Return the proposer's input."""
    tried = tuple(Tried(e.strategy, e.delta, e.ratio) for e in state.effects)
    outcome = "the change of each capability from its start to its peak"
    wanted = state.base.options["candidates"]
    return Situation(state.base, state.campaign, FULL, tried, outcome, wanted)


def ask(state: State) -> str | None:
    """Ask a question if no strategy of the memory transfers, but not before the first campaign."""
    proposer = _proposer(state)
    if proposer.ask is None or not state.campaign or state.order.action not in (PILOT, REJECT):
        return None
    return proposer.ask(situation_of(state))


def hear(state: State, answer: Answer) -> State:
    """Decide again with the model's proposal; keep the plan if the proposal is of no use."""
    try:
        proposal = read_answer(answer, FULL)
    except ValueError as error:
        kept = replace(state.order, reason=f"{state.order.reason} (no usable answer)")
        return replace(state, order=kept, asked=count(state.asked, answer, str(error)))
    return replace(decide(state, (proposal,)), asked=count(state.asked, answer))


def remember(state: State) -> dict[str, Any]:
    """Remember alpha, the cost of asking, and every campaign's effect."""
    return remembered("care", state.effects, alpha=state.alpha, asked=state.asked)


CONTROL = Between(start, plan, observe, ask, hear, remember)
