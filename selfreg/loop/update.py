"""Makes one optimizer update from graded groups, and checks it before anything builds on it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from selfreg.algorithms.parts.algorithm import Algorithm
from selfreg.algorithms.parts.batch import Batch
from selfreg.algorithms.parts.pairs import pair_advantages
from selfreg.control.supervise import Rates
from selfreg.loop.sample import Stopwatch
from selfreg.loop.stages import Stages
from selfreg.loop.states import Held, first_reference, moves_reference
from selfreg.policy.learn import pace
from selfreg.policy.learn.collate import collate, learned_from, padded
from selfreg.policy.learn.optim import learning_rate
from selfreg.policy.learn.pace import Pace
from selfreg.policy.learn.packing import padding_fraction
from selfreg.policy.learn.train_step import TrainState
from selfreg.run import seeds
from selfreg.run.records import Group, Plan


class MismatchError(RuntimeError):
    """Sampler and trainer compute different policies: what looks like collapse would be a bug."""


class NonFiniteLossError(ArithmeticError):
    """The loss or the gradient is not finite. The batch is saved; the run can go no further."""


def hold(
    stages: Stages,
    state: TrainState,
    groups: Sequence[Group],
    plan: Plan,
    step: int,
    held: Held,
    stopwatch: Stopwatch,
) -> Held:
    """Make the policy of this step the reference or EWC's anchor, where the config says so.

    The anchor is the campaign's start, weighed by the samples of its first step.
    """
    learn = stages.config.learn
    if moves_reference(learn, step):
        held = held._replace(reference=jax.tree.map(jnp.copy, state.kept))  # updates donate it
    if learn.ewc_coef and step == 0 and held.anchor is None:
        with stopwatch("update"):
            batch, temperature = _collate(stages, groups), _temperature(stages, plan)
            held = held._replace(anchor=stages.learner.anchor(state.params, batch, temperature))
    return held


def with_reference(stages: Stages, plan: Plan, rates: Rates, held: Held) -> Held:
    """Read the reference when an update needs one for the first time."""
    if held.reference is None and _needs_reference(stages, rates):
        return held._replace(reference=first_reference(stages, plan))
    return held


def update(
    stages: Stages,
    state: TrainState,
    groups: Sequence[Group],
    plan: Plan,
    step: int,
    campaign: int,
    rates: Rates,
    held: Held,
    steady: Pace,
) -> tuple[TrainState, dict[str, float]]:
    """Make one optimizer update from graded groups, or skip it: see _most_norm.

    Args:
      stages: The stages of the run.
      state: The weights that learn, and their moments; donated.
      groups: The graded groups.
      plan: The campaign's plan.
      step: The step of the campaign.
      campaign: From 0.
      rates: The learning rate and the weight of the KL penalty.
      held: The weights that hold the policy.
      steady: The coefficients that follow measurements.

    Returns:
      The new state, and the metrics of the update.

    Raises:
      NonFiniteLossError: The loss or the gradient is not finite.
    """
    config = stages.config
    temperature = _temperature(stages, plan)
    random = seeds.generator(config.seed, seeds.ALGORITHM, campaign, step)
    batch, scores, marks, described = _prepare(
        stages, state, groups, rates, held, temperature, random
    )
    coefficients = {
        "kl_coef": rates.kl_coef * steady.kl_factor,
        "entropy_coef": pace.entropy_coef(steady, config.learn),
    }
    state, learned = stages.learner.update(
        state,
        batch,
        scores if rates.kl_coef else None,
        learning_rate(rates.lr, step, config.optimizer.warmup_steps),
        temperature=temperature,
        anchor=held.anchor,
        most_norm=_most_norm(config, batch, steady),
        marks=marks,
        **coefficients,
    )
    metrics = {name: float(value) for name, value in jax.device_get(learned).items()}
    _check_finite(stages, batch, metrics, step, rates)
    described["padding_fraction"] = padding_fraction(batch, stages.packing)
    targets = {"kl_coef": config.learn.kl_target, "entropy_coef": config.learn.entropy_target}
    described |= {name: coefficients[name] for name, target in targets.items() if target}
    return state, metrics | described


def check_agreement(config: Any, learned: Mapping[str, float]) -> None:
    """Compare the logprobs that sampler and trainer give the same tokens.

    Raises:
      MismatchError: They differ by more than the config allows.
    """
    difference, most = learned["rollout/logprob_abs_diff"], config.rollout.max_logprob_difference
    if difference > most:
        raise MismatchError(
            f"sampler and trainer differ by {difference:.3g} a token in their logprobs, more "
            f"than config.rollout.max_logprob_difference={most:g}: they do not compute the same "
            "policy. Does the server hold the model of config.model.path, in config.model.dtype, "
            "and report logprobs at the sampling temperature? Nothing was kept of this update"
        )


def _prepare(
    stages: Stages,
    state: TrainState,
    groups: Sequence[Group],
    rates: Rates,
    held: Held,
    temperature: float,
    random: np.random.Generator,
) -> tuple[Batch, Any, Any, dict[str, float]]:
    """Return the batch, the reference's logprobs, the algorithm's marks and metrics."""
    algorithm, learner = stages.algorithm, stages.learner
    batch = _collate(stages, groups)
    scores: Any = None
    own: Any = None
    marks: Any = None
    described: dict[str, float] = {}
    if _needs_reference(stages, rates):
        scores = learner.logprobs(held.reference, batch, temperature)
    if algorithm.needs_own_logprobs:
        own = jax.device_get(learner.logprobs(state.params, batch, temperature))
    if algorithm.pair_loss is not None:
        batch, described = _paired(algorithm, batch, groups, own, scores)
    if algorithm.mark is not None:
        marks = algorithm.mark(algorithm.settings, own, batch, random)
    return batch, scores, marks, described


def _paired(
    algorithm: Algorithm, batch: Batch, groups: Sequence[Group], own: Any, reference: Any
) -> tuple[Batch, dict[str, float]]:
    """Put a pair loss's advantages into the batch, from the policy's and reference's logprobs."""
    reference = jax.device_get(reference)
    rewards = np.stack([padded(group.rewards, group.size, np.nan) for group in groups])
    log_ratios = (own - reference).sum(axis=1).reshape(rewards.shape)
    advantages, metrics = pair_advantages(algorithm, rewards == 1, rewards == 0, log_ratios)
    return replace(batch, advantages=advantages), metrics


def _needs_reference(stages: Stages, rates: Rates) -> bool:
    return bool(rates.kl_coef) or stages.algorithm.needs_reference


def _temperature(stages: Stages, plan: Plan) -> float:
    return plan.temperature or stages.config.rollout.temperature


def _collate(stages: Stages, groups: Sequence[Group]) -> Batch:
    learn = stages.config.learn
    return collate(
        groups,
        algorithm=stages.algorithm,
        reward_coding=learn.reward_coding,
        overlong_tokens=learn.overlong_tokens,
        learned=learned_from(
            groups,
            drop_without_signal=learn.drop_without_signal,
            mask_truncated=learn.mask_truncated,
        ),
        prompt_width=stages.prompt_width,
        max_new_tokens=stages.config.rollout.max_new_tokens,
        packing=stages.packing,
    )


def _most_norm(config: Any, batch: Batch, steady: Pace) -> float:
    """Return the gradient norm above which this update is skipped.

    Without a token to learn from every norm is above it: the gradient is 0, and Adam's momentum
    alone would move the weights.
    """
    if not batch.token_weights.any():
        return -1.0
    return pace.most_norm(steady, config.optimizer.skip_norm_factor)


def _check_finite(
    stages: Stages, batch: Batch, metrics: Mapping[str, float], step: int, rates: Rates
) -> None:
    if math.isfinite(metrics["loss"]) and math.isfinite(metrics["grad_norm"]):
        return
    file = stages.log.save_batch(batch)
    raise NonFiniteLossError(
        f"step {step}: loss {metrics['loss']}, gradient norm {metrics['grad_norm']}; the batch "
        f"is in {file}. Lower config.optimizer.lr={rates.lr:g} or set optimizer.clip_norm"
    )
