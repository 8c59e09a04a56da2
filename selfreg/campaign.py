"""One campaign: sample, grade, learn, evaluate, observe. The only file that joins the stages."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import numpy as np

from selfreg import distributed, interrupt, seeds
from selfreg.checkpoint import Checkpoints, restore
from selfreg.control import watch as control
from selfreg.control.protocol import Base, Within
from selfreg.learn.collate import collate
from selfreg.learn.ewc import Anchor
from selfreg.learn.optim import learning_rate
from selfreg.learn.packing import padding_fraction
from selfreg.learn.pairs import pair_advantages
from selfreg.learn.train_step import TrainState
from selfreg.measure import REPORT, measure, measure_campaign
from selfreg.records import (
    Batch,
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
from selfreg.rollout.ahead import Ahead
from selfreg.rundir import CHECKPOINTS, capabilities_by_place
from selfreg.sample import Stopwatch
from selfreg.stages import Stages
from selfreg.xla import compile_count


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
    step, state, anchor = _stand(stages, campaign, plan, checkpoints.latest_step())
    records = log.begin_campaign(campaign, step)
    stages.progress.begin_campaign(campaign, plan, step)
    reference = None

    watched = control.begin(within, base, plan)
    for record in records:  # the control is pure: replaying it restores its state
        watched = control.observe(watched, record)
    peak, peak_step = _peak(config, records)

    engine, first = stages.sampler.engine, step
    ahead: Ahead[list[Group]] = Ahead(config.rollout.overlap)
    groups: list[Group] = []
    drawn_at = step
    while True:
        last = watched.verdict is Verdict.STOP
        # A run resumes only at steps that draw, and at its last: see validate._rules_across_keys.
        draws = not last and (not groups or step % config.learn.updates_per_batch == 0)
        watch, compiled = Stopwatch(), compile_count()
        with watch("step"):
            drawn = ahead.take()  # before its weights change
            if draws or last:
                with watch("sync"):
                    engine.load_params(stages.learner.merged(state.params), f"{campaign}.{step}")
            metrics: dict[str, float] = {}
            rates_by_problem: tuple[float, ...] = ()
            # A control that starts anew after a restore is told what it goes on from.
            restored = watched.verdict is Verdict.RESTORE_PEAK
            if last or restored or step % config.evaluation.every_steps == 0:
                with watch("eval"):
                    panel = measure(stages, stages.panel, "panel", campaign, step)
                metrics |= _describe_panel(panel)
                rates_by_problem = tuple(panel.pass_rates.tolist())
            if draws:
                groups = drawn or _rollouts(stages, plan, campaign, step, watch)
                drawn_at = step - 1 if drawn else step
                stages.log.completions(campaign, step, "train", groups)
                metrics |= _describe(groups)
            trees = state._asdict()
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
                ahead.begin(partial(_rollouts, stages, plan, campaign, step + 1, Stopwatch()))
                rates = control.rates(watched)
                if reference is None and (rates.kl_coef or config.learn.algorithm == "dpo"):
                    reference = _reference(stages, plan)
                with watch("update"):
                    state, learned = _update(
                        stages, state, groups, plan, step, rates, reference, anchor
                    )
                if step == first:
                    _check_agreement(config, learned)
                metrics |= learned | {"rollout/staleness_steps": float(step - drawn_at)}
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
        watched = control.observe(watched, record)
        if watched.verdict is Verdict.RESTORE_PEAK:
            ahead.drop()  # drawn from the policy that is given up
            checkpoints.wait()  # the peak may be on its way to the disk
            del state  # two sets of weights and moments may not fit
            state = _saved(stages, Checkpoint(campaign, peak_step))
            stages.progress.restored(peak_step, control.rates(watched).lr)
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


def _describe_panel(panel: PanelScore) -> dict[str, float]:
    return {"panel_pass_at_1": panel.pass_at_1, "panel_pass_at_1_se": panel.standard_error}


def _rollouts(
    stages: Stages, plan: Plan, campaign: int, step: int, watch: Stopwatch
) -> list[Group]:
    """This step's problems, sampled and graded."""
    seed, rollout = stages.config.seed, stages.config.rollout
    train = stages.sets.of_campaign(campaign)
    chosen = seeds.generator(seed, seeds.CHOICE, campaign, step).choice(
        len(train), rollout.problems_per_step, replace=False
    )
    problems = [train[i] for i in chosen]
    group_size = plan.group_size or rollout.group_size
    drawn = [
        seeds.completion_seeds(seed, seeds.TRAIN, p.id, group_size, campaign, step)
        for p in problems
    ]
    return stages.sampler.groups(problems, drawn, watch, plan.temperature)


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
        prompt_width=stages.prompt_width,
        max_new_tokens=stages.config.rollout.max_new_tokens,
        packing=stages.packing,
        reward_coding=learn.reward_coding,
        center=learn.use_score_centering,
        leave_one_out=learn.use_leave_one_out,
        normalize=learn.use_std_normalization,
        aggregation=learn.token_aggregation,
    )


def _update(
    stages: Stages,
    state: TrainState,
    groups: Sequence[Group],
    plan: Plan,
    step: int,
    rates: control.Rates,
    reference: Any,
    anchor: Anchor | None,
) -> tuple[TrainState, dict[str, float]]:
    """One optimizer update from graded groups."""
    config, learner = stages.config, stages.learner
    batch = _collate(stages, groups)
    temperature = plan.temperature or config.rollout.temperature
    scores = None
    if reference is not None:
        scores = learner.logprobs(reference, batch, temperature)
    described: dict[str, float] = {}
    if config.learn.algorithm == "dpo":
        own = learner.logprobs(state.params, batch, temperature)
        batch, described = _paired(batch, groups, own, scores, config.learn.dpo_beta)
    lr = learning_rate(rates.lr, step, config.optimizer.warmup_steps)
    held = scores if rates.kl_coef else None
    state, learned = learner.update(state, batch, held, lr, rates.kl_coef, temperature, anchor)
    metrics = {name: float(value) for name, value in jax.device_get(learned).items()}
    if not (math.isfinite(metrics["loss"]) and math.isfinite(metrics["grad_norm"])):
        file = stages.log.save_batch(batch)
        raise NonFiniteLossError(
            f"step {step}: loss {metrics['loss']}, gradient norm {metrics['grad_norm']}; the batch "
            f"is in {file}. Lower config.optimizer.lr={rates.lr:g} or set optimizer.clip_norm"
        )
    padding = {"padding_fraction": padding_fraction(batch, stages.packing)}
    return state, metrics | described | padding


def _paired(
    batch: Batch, groups: Sequence[Group], own: jax.Array, reference: Any, beta: float
) -> tuple[Batch, dict[str, float]]:
    """The batch with DPO's advantages, given the logprobs of its tokens, and DPO's metrics."""
    own, reference = jax.device_get((own, reference))
    passed = np.stack([group.rewards > 0 for group in groups])
    log_ratios = (own - reference).sum(axis=1).reshape(passed.shape)
    advantages, metrics = pair_advantages(passed, log_ratios, beta)
    return replace(batch, advantages=advantages), metrics


def _describe(groups: Sequence[Group]) -> dict[str, float]:
    """What the samples of a step say about the policy."""
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
    return metrics | shares | used


def _peak(config: Any, records: Sequence[StepRecord]) -> tuple[float, int]:
    """The highest value of the control's metric so far, and the step where it was first seen."""
    values = [record.metrics.get(config.control_metric, -math.inf) for record in records]
    best = max(range(len(values)), key=values.__getitem__, default=0)
    return (values[best], records[best].step) if values else (-math.inf, 0)


def _stand(
    stages: Stages, campaign: int, plan: Plan, latest: int | None
) -> tuple[int, TrainState, Anchor | None]:
    """The step that a campaign goes on from, its state there, and EWC's anchor once there is one.

    Args:
      stages: What it runs on.
      campaign: From 0.
      plan: Its moments are new or kept, as the config has it, where the campaign begins.
      latest: The last checkpoint; None: it begins.
    """
    if latest is not None:
        anchor = None
        if stages.config.learn.ewc_coef:
            anchor = Anchor(**_read(stages, Checkpoint(campaign, 0), "params", "fisher"))
        return latest, _saved(stages, Checkpoint(campaign, latest)), anchor
    if plan.start is None:
        return 0, stages.learner.init(stages.initial()), None
    if stages.config.optimizer.reset_each_campaign:
        return 0, stages.learner.init(_read(stages, plan.start, "params")["params"]), None
    return 0, _saved(stages, plan.start), None


def _saved(stages: Stages, checkpoint: Checkpoint) -> TrainState:
    return TrainState(**_read(stages, checkpoint, "params", "moments"))


def _read(stages: Stages, checkpoint: Checkpoint, *names: str) -> dict[str, Any]:
    """Trees of a checkpoint of this chain, on the mesh."""
    like = stages.learner.like._asdict()
    like = {name: like["params" if name == "fisher" else name] for name in names}
    return restore(stages.log.folder / CHECKPOINTS, checkpoint, like)


def _reference(stages: Stages, plan: Plan) -> Any:
    """The frozen weights that the KL penalty or DPO holds on to."""
    if plan.start is None or stages.config.learn.kl_reference == "base":
        return stages.initial()
    return _read(stages, plan.start, "params")["params"]
