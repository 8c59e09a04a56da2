"""One campaign: sample, grade, learn, evaluate, observe. The only file that joins the stages."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from selfreg.algorithms.parts.algorithm import Algorithm
from selfreg.algorithms.parts.batch import Batch
from selfreg.algorithms.parts.pairs import pair_advantages
from selfreg.control import supervise
from selfreg.control.protocol import Base, Within
from selfreg.loop.draw import Drawn, draw
from selfreg.loop.measure import REPORT, measure, measure_campaign
from selfreg.loop.sample import Stopwatch
from selfreg.loop.stages import Stages
from selfreg.loop.states import (
    first_reference,
    moved_reference,
    moves_reference,
    saved,
    stand,
    trees_of,
)
from selfreg.policy import distributed
from selfreg.policy.learn import pace
from selfreg.policy.learn.collate import collate, learned_from, padded
from selfreg.policy.learn.ewc import Anchor
from selfreg.policy.learn.optim import learning_rate
from selfreg.policy.learn.pace import Pace
from selfreg.policy.learn.packing import padding_fraction
from selfreg.policy.learn.train_step import TrainState
from selfreg.policy.rollout.ahead import Ahead
from selfreg.policy.xla import compile_count
from selfreg.run import interrupt, seeds
from selfreg.run.checkpoint import Checkpoints
from selfreg.run.records import (
    Checkpoint,
    FinishReason,
    Group,
    Outcome,
    PanelScore,
    Plan,
    StepRecord,
    Trace,
    Verdict,
)
from selfreg.run.rundir import CHECKPOINTS, capabilities_by_place


class MismatchError(RuntimeError):
    """Sampler and trainer compute different policies: what looks like collapse would be a bug."""


class NonFiniteLossError(ArithmeticError):
    """The loss or the gradient is not finite. The batch is saved; the run can go no further."""


def run_campaign(
    stages: Stages, campaign: int, plan: Plan, within: Within, base: Base
) -> tuple[Trace, dict[str, Mapping[str, PanelScore]]]:
    """Run one campaign to its end, from wherever the run folder says it stands.

    Args:
      stages: What to run on.
      campaign: From 0.
      plan: What the between-campaign control ordered.
      within: The within-campaign control.
      base: What the config gives it.

    Returns:
      The trace, and the scores of its start, peak and end: see measure_campaign.

    Raises:
      NonFiniteLossError: An update failed.
      MismatchError: Sampler and trainer disagree.
      EngineError: The engine cannot go on.
    """
    config, log = stages.config, stages.log
    folder = log.folder / CHECKPOINTS
    checkpoints = Checkpoints(folder, campaign, config.checkpoint.keep_every_steps)
    step, state, anchor = stand(stages, campaign, plan, checkpoints.latest_step())
    records = log.begin_campaign(campaign, step)
    stages.progress.begin_campaign(campaign, plan, step)
    reference = moved_reference(stages, campaign, step)

    watched, steady = supervise.begin(within, base, plan), pace.begin(config.learn)
    for record in records:  # both are pure: replaying them restores their states
        watched = supervise.observe(watched, record)
        steady = pace.observe(steady, record.metrics, config.learn)
    peak, peak_step = _peak(config, records)

    engine, first = stages.sampler.engine, step
    ahead: Ahead[Drawn] = Ahead(config.rollout.overlap)
    groups: Sequence[Group] = []
    drawn_at = step
    while True:
        last = watched.verdict is Verdict.STOP
        # A run resumes only at steps that draw, and at its last: see validate._rules_across_keys.
        draws = not last and (not groups or step % config.learn.updates_per_batch == 0)
        watch, compiled = Stopwatch(), compile_count()
        with watch("step"):
            drawn = ahead.take()  # before its weights change
            # A control that starts anew after a restore is told what it goes on from.
            restored = watched.verdict is Verdict.RESTORE_PEAK
            measures = last or restored or step % config.evaluation.every_steps == 0
            metrics: dict[str, float] = {}
            rates_by_problem: tuple[float, ...] = ()
            if measures:
                _load(stages, state.kept, f"{campaign}.{step}", watch)
                with watch("eval"):
                    panel = measure(stages, stages.panel, "panel", campaign, step)
                metrics |= _describe_panel(panel)
                rates_by_problem = _rates(panel)
            if draws:
                if not measures or state.averaged is not None:
                    _load(stages, state.params, f"{campaign}.{step}", watch)
                samples = drawn or draw(stages, plan, campaign, step, watch)
                drawn_at = step - 1 if drawn else step
                groups = samples.learned
                metrics |= _describe(samples.first) | _keep(stages, campaign, step, samples)
            if moves_reference(config.learn, step):
                reference = jax.tree.map(jnp.copy, state.kept)  # an update donates the state
            trees = trees_of(state)
            if 0 < config.learn.reference_every_steps <= step:
                trees |= {"reference": reference}
            if config.learn.ewc_coef and step == 0:
                anchor = anchor or _anchor(stages, state, groups, plan, watch)
                trees |= {"fisher": anchor.fisher}

            value = metrics.get(config.control_metric, -math.inf)
            is_peak = value > peak
            if is_peak or last or _is_saved(config.checkpoint, step):
                with watch("checkpoint"):
                    checkpoints.save(step, trees, peak_value=value if is_peak else None)
            if is_peak:
                peak, peak_step = value, step
            if not last:
                engine.release()
                ahead.begin(partial(draw, stages, plan, campaign, step + 1, Stopwatch()))
                rates = supervise.rates(watched)
                if reference is None and (rates.kl_coef or stages.algorithm.needs_reference):
                    reference = first_reference(stages, plan)
                with watch("update"):
                    random = seeds.generator(config.seed, seeds.ALGORITHM, campaign, step)
                    state, learned = _update(
                        stages, state, groups, plan, step, rates, reference, anchor, steady, random
                    )
                if step == first:
                    _check_agreement(config, learned)
                metrics |= learned | {"rollout/staleness_steps": float(step - drawn_at)}
                if "update_skipped" in learned:
                    skipped = steady.skipped + round(learned["update_skipped"])
                    metrics["updates_skipped"] = float(skipped)
        metrics |= watch.seconds | {"compiles": compile_count() - compiled}
        metrics |= engine.take_metrics()
        if watched.restores:
            metrics["control/restores"] = watched.restores
        record = StepRecord(campaign, step, metrics, rates_by_problem)
        log.append(record)
        stages.progress.step(step, metrics)
        interrupt.check(distributed.any_process)
        if last:
            break
        watched = supervise.observe(watched, record)
        steady = pace.observe(steady, metrics, config.learn)
        if watched.verdict is Verdict.RESTORE_PEAK:
            ahead.drop()  # drawn from the policy that is given up
            checkpoints.wait()  # the peak may be on its way to the disk
            del state  # two sets of weights and moments may not fit
            state = saved(stages, Checkpoint(campaign, peak_step))
            stages.progress.restored(peak_step, supervise.rates(watched).lr)
            groups = []  # what the policy drew that is given up
        step += 1

    checkpoints.close()
    return _finish(stages, campaign, plan)


def _finish(
    stages: Stages, campaign: int, plan: Plan
) -> tuple[Trace, dict[str, Mapping[str, PanelScore]]]:
    """The trace of a campaign that has ended, and what its start, peak and end can do."""
    log = stages.log
    own = tuple(record for record in log.records if record.campaign == campaign)
    trace = Trace(campaign, stages.config.control_metric, own)
    measured = measure_campaign(stages, trace, plan)
    capabilities = {name: scores for name, scores in measured.items() if name != REPORT}
    return replace(trace, capabilities=capabilities_by_place(capabilities)), measured


def _load(stages: Stages, params: Any, version: str, watch: Stopwatch) -> None:
    """Hand weights to the engine."""
    with watch("sync"):
        stages.sampler.engine.load_params(stages.learner.merged(params), version)


def _rates(panel: PanelScore) -> tuple[float, ...]:
    """The panel's rates by problem; none where a problem has no judged completion."""
    return () if np.isnan(panel.pass_rates).any() else tuple(panel.pass_rates.tolist())


def _describe_panel(panel: PanelScore) -> dict[str, float]:
    return {"panel_pass_at_1": panel.pass_at_1, "panel_pass_at_1_se": panel.standard_error}


def _keep(stages: Stages, campaign: int, step: int, samples: Drawn) -> dict[str, float]:
    """Keep a step's completions; what they cost, where groups are drawn anew or left out."""
    stages.log.completions(campaign, step, "train", samples.first)
    if samples.redrawn:
        stages.log.completions(campaign, step, "redrawn", samples.redrawn)
    config = stages.config
    return samples.cost if config.rollout.redraws or config.learn.drop_without_signal else {}


def _is_saved(checkpoint: Any, step: int) -> bool:
    """Whether a step is saved whatever its metric."""
    kept = checkpoint.keep_every_steps
    return step % checkpoint.every_steps == 0 or bool(kept and step % kept == 0)


def _check_agreement(config: Any, learned: Mapping[str, float]) -> None:
    """Compare what sampler and trainer say of the same tokens, before anything builds on it."""
    difference, most = learned["rollout/logprob_abs_diff"], config.rollout.max_logprob_difference
    if difference > most:
        raise MismatchError(
            f"sampler and trainer differ by {difference:.3g} a token in their logprobs, more "
            f"than config.rollout.max_logprob_difference={most:g}: they do not compute the same "
            "policy. Does the server hold the model of config.model.path, in config.model.dtype, "
            "and report logprobs at the sampling temperature? Nothing was kept of this update"
        )


def _anchor(
    stages: Stages, state: TrainState, groups: Sequence[Group], plan: Plan, watch: Stopwatch
) -> Anchor:
    """What EWC holds on to: the campaign's start, weighed by its first step's samples."""
    temperature = plan.temperature or stages.config.rollout.temperature
    with watch("update"):
        return stages.learner.anchor(state.params, _collate(stages, groups), temperature)


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


def _update(
    stages: Stages,
    state: TrainState,
    groups: Sequence[Group],
    plan: Plan,
    step: int,
    rates: supervise.Rates,
    reference: Any,
    anchor: Anchor | None,
    steady: Pace,
    random: np.random.Generator,
) -> tuple[TrainState, dict[str, float]]:
    """One optimizer update from graded groups, or none: see _most_norm."""
    config, learner = stages.config, stages.learner
    batch = _collate(stages, groups)
    temperature = plan.temperature or config.rollout.temperature
    scores = None
    if rates.kl_coef or stages.algorithm.needs_reference:
        scores = learner.logprobs(reference, batch, temperature)
    described: dict[str, float] = {}
    algorithm = stages.algorithm
    own: Any = None
    marks: Any = None
    if algorithm.needs_own_logprobs:
        own = jax.device_get(learner.logprobs(state.params, batch, temperature))
    if algorithm.pair_loss is not None:
        batch, described = _paired(algorithm, batch, groups, own, scores)
    if algorithm.mark is not None:
        marks = algorithm.mark(algorithm.settings, own, batch, random)
    lr = learning_rate(rates.lr, step, config.optimizer.warmup_steps)
    held = scores if rates.kl_coef else None
    followed = {
        "kl_coef": rates.kl_coef * steady.kl_factor,
        "entropy_coef": pace.entropy_coef(steady, config.learn),
    }
    state, learned = learner.update(
        state, batch, held, lr,
        temperature=temperature, anchor=anchor, most_norm=_most_norm(config, batch, steady),
        marks=marks, **followed,
    )  # fmt: skip
    metrics = {name: float(value) for name, value in jax.device_get(learned).items()}
    if not (math.isfinite(metrics["loss"]) and math.isfinite(metrics["grad_norm"])):
        file = stages.log.save_batch(batch)
        raise NonFiniteLossError(
            f"step {step}: loss {metrics['loss']}, gradient norm {metrics['grad_norm']}; the batch "
            f"is in {file}. Lower config.optimizer.lr={rates.lr:g} or set optimizer.clip_norm"
        )
    described["padding_fraction"] = padding_fraction(batch, stages.packing)
    targets = {"kl_coef": config.learn.kl_target, "entropy_coef": config.learn.entropy_target}
    described |= {name: followed[name] for name, target in targets.items() if target}
    return state, metrics | described


def _most_norm(config: Any, batch: Batch, steady: Pace) -> float:
    """The norm of a gradient above which this update is skipped: any, where no token is left.

    Without a token the gradient is 0, and Adam's momentum alone would move the weights.
    """
    if not batch.token_weights.any():
        return -1.0
    return pace.most_norm(steady, config.optimizer.skip_norm_factor)


def _paired(
    algorithm: Algorithm, batch: Batch, groups: Sequence[Group], own: Any, reference: Any
) -> tuple[Batch, dict[str, float]]:
    """The batch with a pair loss's advantages, given the logprobs of its tokens, and metrics."""
    reference = jax.device_get(reference)
    rewards = np.stack([padded(group.rewards, group.size, np.nan) for group in groups])
    log_ratios = (own - reference).sum(axis=1).reshape(rewards.shape)
    advantages, metrics = pair_advantages(algorithm, rewards == 1, rewards == 0, log_ratios)
    return replace(batch, advantages=advantages), metrics


def _describe(groups: Sequence[Group]) -> dict[str, float]:
    """What the samples of a step say about the policy; unjudged completions say nothing."""
    unjudged = sum(len(group.unjudged) for group in groups)
    share = {"grader/unjudged": unjudged / sum(group.size for group in groups)} if unjudged else {}
    groups = [group for group in groups if group.rollouts]
    if not groups:
        return share
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    outcomes = Counter(grade.outcome for group in groups for grade in group.grades)
    count = len(rollouts)
    metrics = {
        "pass_rate": float(np.mean([group.rewards.mean() for group in groups])),
        "frac_reward_zero_std": float(np.mean([group.rewards.std() == 0 for group in groups])),
        "distinct_completions": float(
            np.mean([len({r.text for r in g.rollouts}) / len(g.rollouts) for g in groups])
        ),
        "response_length/mean": float(np.mean([len(r.completion_ids) for r in rollouts])),
        "clip_ratio": sum(r.finish_reason is FinishReason.LENGTH for r in rollouts) / count,
        "invalid_syntax_rate": outcomes[Outcome.COMPILE_ERROR] / count,
    }
    grades = [grade for group in groups for grade in group.grades]
    used = {
        "grader/program_cpu_s": float(np.mean([grade.time_s for grade in grades])),
        "grader/program_peak_mb": max(grade.peak_mb for grade in grades),
    }
    shares = {f"grader/{o.value}": outcomes[o] / count for o in Outcome if outcomes[o]}
    return metrics | shares | share | used


def _peak(config: Any, records: Sequence[StepRecord]) -> tuple[float, int]:
    """The highest value of the control's metric so far, and the step where it was first seen."""
    values = [record.metrics.get(config.control_metric, -math.inf) for record in records]
    best = max(range(len(values)), key=values.__getitem__, default=0)
    return (values[best], records[best].step) if values else (-math.inf, 0)
