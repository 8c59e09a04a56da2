"""One campaign: sample, grade, learn, evaluate, observe. The only file that joins the stages."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from selfreg import distributed, interrupt, seeds
from selfreg.checkpoint import Checkpoints, restore
from selfreg.control.protocol import Within
from selfreg.evals.panel import Panel, score
from selfreg.learn.collate import collate
from selfreg.learn.optim import learning_rate
from selfreg.learn.packing import padding_fraction
from selfreg.learn.train_step import TrainState
from selfreg.records import (
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
from selfreg.rundir import CHECKPOINTS, place_of
from selfreg.sample import Stopwatch
from selfreg.stages import Stages
from selfreg.xla import compile_count


class MismatchError(RuntimeError):
    """Sampler and trainer compute different policies: what looks like collapse would be a bug."""


class NonFiniteLossError(ArithmeticError):
    """The loss or the gradient is not finite. The batch is saved; the run can go no further."""


def run_campaign(
    stages: Stages, campaign: int, plan: Plan, within: Within
) -> tuple[Trace, dict[str, PanelScore]]:
    """Run one campaign to its end, from wherever the run folder says it stands.

    Args:
      stages: What to run on.
      campaign: From 0.
      plan: What the between-campaign control ordered.
      within: The within-campaign control.

    Returns:
      The trace, and the report panel's scores at "start", "peak" and "end".

    Raises:
      NonFiniteLossError: An update failed.
      MismatchError: Sampler and trainer disagree.
      EngineError: The engine cannot go on.
    """
    config, log = stages.config, stages.log
    folder = log.folder / CHECKPOINTS
    checkpoints = Checkpoints(folder, campaign)
    begun_at = checkpoints.latest_step()
    step = begun_at or 0
    if begun_at is None:
        state = _start(stages, plan)
    else:
        here = Checkpoint(campaign, begun_at)
        state = TrainState(**_read(stages, here, "params", "moments"))
    records = log.begin_campaign(campaign, step)
    stages.progress.begin_campaign(campaign, plan, step)
    reference = _reference(stages, plan) if plan.kl_coef else None

    control, verdict = within.start(plan), Verdict.CONTINUE
    for record in records:  # the control is pure: replaying it restores its state
        control, verdict = within.observe(control, record)
    peak = max((_read_metric(config, r) for r in records), default=-math.inf)

    engine, first = stages.sampler.engine, step
    ahead: Ahead[list[Group]] = Ahead(config.rollout.overlap)
    while True:
        last = verdict is Verdict.STOP
        watch, compiled = Stopwatch(), compile_count()
        with watch("step"):
            drawn = ahead.take()  # before its weights change
            with watch("sync"):
                engine.load_params(stages.learner.merged(state.params), f"{campaign}.{step}")
            metrics: dict[str, float] = {}
            if last or step % config.evaluation.every_steps == 0:
                with watch("eval"):
                    panel = measure(stages, stages.panel, "panel", campaign, step)
                metrics["panel_pass_at_1"] = panel.pass_at_1
                metrics["panel_pass_at_1_se"] = panel.standard_error
            groups = [] if last else drawn or _rollouts(stages, campaign, step, watch)
            if groups:
                stages.log.completions(campaign, step, "train", groups)
            metrics |= _describe(groups)

            value = metrics.get(config.control_metric, -math.inf)
            is_peak = value > peak
            if is_peak or last or step % config.checkpoint.every_steps == 0:
                with watch("checkpoint"):
                    checkpoints.save(step, state._asdict(), peak_value=value if is_peak else None)
            peak = max(peak, value)
            if not last:
                engine.release()
                ahead.begin(partial(_rollouts, stages, campaign, step + 1, Stopwatch()))
                with watch("update"):
                    state, learned = _update(stages, state, groups, plan, step, reference)
                if step == first:
                    _check_agreement(config, learned)
                metrics |= learned | {"rollout/staleness_steps": float(drawn is not None)}
        metrics |= watch.seconds | {"compiles": compile_count() - compiled}
        metrics |= engine.take_metrics()
        record = StepRecord(campaign, step, metrics)
        log.append(record)
        stages.progress.step(step, metrics)
        interrupt.check(distributed.any_process)
        if last:
            break
        control, verdict = within.observe(control, record)
        step += 1

    checkpoints.close()
    trace = log.trace(campaign, config.control_metric)
    return trace, _report(stages, trace, plan)


def measure(stages: Stages, panel: Panel, stream: str, campaign: int, step: int) -> PanelScore:
    """Score the engine's weights on a panel, and keep the completions."""
    groups = stages.sampler.groups(panel.problems, panel.seeds(), Stopwatch())
    stages.log.completions(campaign, step, stream, groups)
    return score(groups)


def _rollouts(stages: Stages, campaign: int, step: int, watch: Stopwatch) -> list[Group]:
    """This step's problems, sampled and graded."""
    seed, rollout = stages.config.seed, stages.config.rollout
    chosen = seeds.generator(seed, seeds.CHOICE, campaign, step).choice(
        len(stages.train), rollout.problems_per_step, replace=False
    )
    problems = [stages.train[i] for i in chosen]
    drawn = [
        seeds.completion_seeds(seed, seeds.TRAIN, p.id, rollout.group_size, campaign, step)
        for p in problems
    ]
    return stages.sampler.groups(problems, drawn, watch)


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


def _update(
    stages: Stages,
    state: TrainState,
    groups: Sequence[Group],
    plan: Plan,
    step: int,
    reference: Any,
) -> tuple[TrainState, dict[str, float]]:
    """One optimizer update from graded groups."""
    config = stages.config
    learn = config.learn
    batch = collate(
        groups,
        prompt_width=stages.prompt_width,
        max_new_tokens=config.rollout.max_new_tokens,
        packing=stages.packing,
        reward_coding=learn.reward_coding,
        center=learn.use_score_centering,
        normalize=learn.use_std_normalization,
        aggregation=learn.token_aggregation,
    )
    scores = None if reference is None else stages.learner.logprobs(reference, batch)
    lr = learning_rate(plan.lr, step, config.optimizer.warmup_steps)
    state, learned = stages.learner.update(state, batch, scores, lr, plan.kl_coef)
    metrics = {name: float(value) for name, value in jax.device_get(learned).items()}
    if not (math.isfinite(metrics["loss"]) and math.isfinite(metrics["grad_norm"])):
        file = stages.log.save_batch(batch)
        raise NonFiniteLossError(
            f"step {step}: loss {metrics['loss']}, gradient norm {metrics['grad_norm']}; the batch "
            f"is in {file}. Lower config.optimizer.lr={plan.lr:g} or set optimizer.clip_norm"
        )
    return state, metrics | {"padding_fraction": padding_fraction(batch, stages.packing)}


def _describe(groups: Sequence[Group]) -> dict[str, float]:
    """What the samples of a step say about the policy; nothing when none were drawn."""
    if not groups:
        return {}
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


def _read_metric(config: Any, record: StepRecord) -> float:
    return record.metrics.get(config.control_metric, -math.inf)


def _start(stages: Stages, plan: Plan) -> TrainState:
    """The state that a campaign begins from: the plan's checkpoint, its moments new or kept."""
    if plan.start is None:
        return stages.learner.init(stages.initial())
    if stages.config.optimizer.reset_each_campaign:
        return stages.learner.init(_read(stages, plan.start, "params")["params"])
    return TrainState(**_read(stages, plan.start, "params", "moments"))


def _read(stages: Stages, checkpoint: Checkpoint, *names: str) -> dict[str, Any]:
    """Trees of a checkpoint of this chain, on the mesh."""
    like = {name: getattr(stages.learner.like, name) for name in names}
    return restore(stages.log.folder / CHECKPOINTS, checkpoint, like)


def _reference(stages: Stages, plan: Plan) -> Any:
    """The frozen weights that the KL penalty holds on to."""
    if plan.start is None or stages.config.learn.kl_reference == "base":
        return stages.initial()
    return _read(stages, plan.start, "params")["params"]


def _report(stages: Stages, trace: Trace, plan: Plan) -> dict[str, PanelScore]:
    """The report panel's scores of start, peak and end; each policy is measured once."""
    wanted = {"start": 0, "peak": trace.peak_step, "end": trace.end_step}
    scores: dict[int, PanelScore] = {}
    if plan.start is not None:  # the campaign before has measured the policy that rolled forward
        before = stages.log.summaries[plan.start.campaign]
        scores[0] = before.scores[place_of(before, plan.start.step)]
    for step in sorted(set(wanted.values()) - scores.keys()):
        checkpoint = Checkpoint(trace.campaign, step)
        trained = _read(stages, checkpoint, "params")["params"]
        version = f"{checkpoint.campaign}.{checkpoint.step}"
        stages.sampler.engine.load_params(stages.learner.merged(trained), version)
        scores[step] = measure(stages, stages.report, "report", trace.campaign, step)
    return {name: scores[step] for name, step in wanted.items()}
