"""Runs one campaign, step by step.

    measure -> sample and grade -> hold -> keep -> learn -> record -> observe -> next step

Step s speaks of the policy after s updates. It measures that policy, samples from it and saves it,
and then makes the update that leads to step s + 1. The last step makes no update.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from selfreg.control import supervise
from selfreg.control.protocol import Base, Within
from selfreg.control.supervise import Supervision
from selfreg.loop.describe import describe_panel, describe_samples, rates_by_problem
from selfreg.loop.draw import Drawn, draw
from selfreg.loop.measure import finish, measure
from selfreg.loop.sample import Stopwatch
from selfreg.loop.stages import Stages
from selfreg.loop.states import Held, resume, saved, trees_of
from selfreg.loop.update import check_agreement, hold, update, with_reference
from selfreg.policy import distributed
from selfreg.policy.learn import pace
from selfreg.policy.learn.pace import Pace
from selfreg.policy.learn.train_step import TrainState
from selfreg.policy.rollout.ahead import Ahead
from selfreg.policy.xla import compile_count
from selfreg.run import interrupt
from selfreg.run.checkpoint import Checkpoints
from selfreg.run.records import (
    Checkpoint,
    Group,
    PanelScore,
    Peak,
    Plan,
    StepRecord,
    Trace,
    Verdict,
    find_peak,
)
from selfreg.run.rundir import CHECKPOINTS


@dataclass(frozen=True, slots=True)
class Campaign:
    """The parts of a campaign that stay the same from step to step.

    Attributes:
      stages: The stages of the run.
      number: From 0.
      plan: The plan of the control between campaigns.
      checkpoints: The campaign's saved policies.
      ahead: Draws the next step's samples during an update, if config.rollout.overlap says so.
      first_step: The step at which this process began or resumed the campaign.
    """

    stages: Stages
    number: int
    plan: Plan
    checkpoints: Checkpoints
    ahead: Ahead[Drawn]
    first_step: int


@dataclass(frozen=True, slots=True)
class Position:
    """A campaign's state at the start of a step, except for the weights that learn.

    Attributes:
      step: Updates made so far.
      held: The weights that updates are pulled towards.
      supervision: The state of the control within the campaign, with its last verdict.
      pace: The coefficients of the update that follow measurements.
      peak: The peak so far of the metric that controls read.
      groups: The graded samples to learn from; empty where the step must draw them.
      drawn_at: The step whose policy drew them.
    """

    step: int
    held: Held
    supervision: Supervision
    pace: Pace
    peak: Peak
    groups: Sequence[Group] = ()
    drawn_at: int = 0

    @property
    def is_last(self) -> bool:
        """Whether the campaign ends with this step."""
        return self.supervision.verdict is Verdict.STOP

    @property
    def is_restored(self) -> bool:
        """Whether this step goes on from the campaign's peak."""
        return self.supervision.verdict is Verdict.RESTORE_PEAK


def run_campaign(
    stages: Stages, campaign: int, plan: Plan, within: Within, base: Base
) -> tuple[Trace, dict[str, Mapping[str, PanelScore]]]:
    """Run one campaign to its end, from wherever the run folder says it stands.

    Args:
      stages: The stages of the run.
      campaign: From 0.
      plan: The plan of the control between campaigns.
      within: The control within the campaign.
      base: The config's values for controls.

    Returns:
      The trace, and the scores of its start, peak and end: see measure_campaign.

    Raises:
      NonFiniteLossError: An update failed.
      MismatchError: Sampler and trainer disagree.
      EngineError: The engine cannot go on.
    """
    run, now, state = _begin(stages, campaign, plan, within, base)
    while True:
        stopwatch, compiled = Stopwatch(), compile_count()
        with stopwatch("step"):
            drawn = run.ahead.take()  # before the weights that drew it change
            panel = _measure(run, now, state, stopwatch)
            metrics = describe_panel(panel) if panel else {}
            now, sampled = _sample(run, now, state, drawn, bool(panel), stopwatch)
            metrics |= sampled
            now = _hold(run, now, state, stopwatch)
            now = _keep(run, now, state, metrics, stopwatch)
            if not now.is_last:
                now, state, learned = _learn(run, now, state, stopwatch)
                metrics |= learned
        metrics |= stopwatch.seconds | {"compiles": compile_count() - compiled}
        record = _record(run, now, metrics, panel)
        if now.is_last:
            break
        now = _observe(run, now, record)
        if now.is_restored:
            del state  # two sets of weights and moments may not fit
            now, state = _go_back(run, now)
    run.checkpoints.close()
    return finish(stages, campaign, plan)


def _begin(
    stages: Stages, number: int, plan: Plan, within: Within, base: Base
) -> tuple[Campaign, Position, TrainState]:
    """Read where the campaign stands, and replay its records for its control and coefficients."""
    config, log = stages.config, stages.log
    checkpoints = Checkpoints(log.folder / CHECKPOINTS, number, config.checkpoint.keep_every_steps)
    step, state, held = resume(stages, number, plan, checkpoints)
    records = log.begin_campaign(number, step)
    stages.progress.begin_campaign(number, plan, step)
    peak = find_peak(records, config.control_metric)
    now = Position(0, held, supervise.begin(within, base, plan), pace.begin(config.learn), peak)
    run = Campaign(stages, number, plan, checkpoints, Ahead(config.rollout.overlap), step)
    for record in records:
        now = _observe(run, now, record)
    return run, replace(now, step=step), state


def _measure(
    run: Campaign, now: Position, state: TrainState, stopwatch: Stopwatch
) -> PanelScore | None:
    """Measure the policy on the panel, where this step is one that measures."""
    stages = run.stages
    is_due = now.step % stages.config.evaluation.every_steps == 0
    # After a restore the control starts anew, and must see the policy that it goes on from.
    if not (is_due or now.is_last or now.is_restored):
        return None
    with stopwatch("sync"):
        stages.load(state.kept, run.number, now.step)
    with stopwatch("eval"):
        return measure(stages, stages.panel, "panel", run.number, now.step)


def _sample(
    run: Campaign,
    now: Position,
    state: TrainState,
    drawn: Drawn | None,
    is_loaded: bool,
    stopwatch: Stopwatch,
) -> tuple[Position, dict[str, float]]:
    """Draw and grade the samples that this step learns from, or learn from the last ones again.

    A run resumes only at steps that draw, and at its last: see validate._rules_across_keys.
    """
    stages, config, step = run.stages, run.stages.config, now.step
    if now.is_last or (now.groups and step % config.learn.updates_per_batch):
        return now, {}
    if not is_loaded or state.averaged is not None:
        with stopwatch("sync"):
            stages.load(state.params, run.number, step)
    samples = drawn or draw(stages, run.plan, run.number, step, stopwatch)
    stages.log.completions(run.number, step, "train", samples.first)
    if samples.redrawn:
        stages.log.completions(run.number, step, "redrawn", samples.redrawn)
    metrics = describe_samples(samples.first)
    if config.rollout.redraws or config.learn.drop_without_signal:
        metrics |= samples.cost
    drawn_at = step - 1 if drawn else step
    return replace(now, groups=samples.learned, drawn_at=drawn_at), metrics


def _hold(run: Campaign, now: Position, state: TrainState, stopwatch: Stopwatch) -> Position:
    """Make this policy the reference or EWC's anchor, where the config says so."""
    held = hold(run.stages, state, now.groups, run.plan, now.step, now.held, stopwatch)
    return replace(now, held=held)


def _keep(
    run: Campaign,
    now: Position,
    state: TrainState,
    metrics: Mapping[str, float],
    stopwatch: Stopwatch,
) -> Position:
    """Save the policy where it is a new peak, at the end, and every few steps."""
    config, step = run.stages.config, now.step
    own = StepRecord(run.number, step, metrics)
    peak = find_peak([own], config.control_metric, now.peak)
    is_peak = peak is not now.peak
    every, keep_every = config.checkpoint.every_steps, config.checkpoint.keep_every_steps
    is_due = step % every == 0 or bool(keep_every and step % keep_every == 0)
    if is_peak or now.is_last or is_due:
        with stopwatch("checkpoint"):
            trees = trees_of(config.learn, step, state, now.held)
            rests_on = run.stages.log.rests_on(run.number, step)
            value = peak.value if is_peak else None
            run.checkpoints.save(step, trees, peak_value=value, rests_on=rests_on)
    return replace(now, peak=peak)


def _learn(
    run: Campaign, now: Position, state: TrainState, stopwatch: Stopwatch
) -> tuple[Position, TrainState, dict[str, float]]:
    """Make one update; the next step's samples may be drawn beside it."""
    stages, plan, step = run.stages, run.plan, now.step
    stages.sampler.engine.release()
    run.ahead.begin(partial(draw, stages, plan, run.number, step + 1, Stopwatch()))
    rates = supervise.rates(now.supervision)
    held = with_reference(stages, plan, rates, now.held)
    with stopwatch("update"):
        state, metrics = update(
            stages, state, now.groups, plan, step, run.number, rates, held, now.pace
        )
    if step == run.first_step:
        check_agreement(stages.config, metrics)
    metrics["rollout/staleness_steps"] = float(step - now.drawn_at)
    if "update_skipped" in metrics:
        skipped = now.pace.skipped + round(metrics["update_skipped"])
        metrics["updates_skipped"] = float(skipped)
    return replace(now, held=held), state, metrics


def _record(
    run: Campaign, now: Position, metrics: dict[str, float], panel: PanelScore | None
) -> StepRecord:
    """Write the step's record, show it, and end here if somebody pressed Ctrl-C."""
    metrics = metrics | run.stages.sampler.engine.take_metrics()
    if now.supervision.restores:
        metrics["control/restores"] = now.supervision.restores
    rates = rates_by_problem(panel) if panel else ()
    record = StepRecord(run.number, now.step, metrics, rates)
    run.stages.log.append(record)
    run.stages.progress.step(now.step, metrics)
    interrupt.check(distributed.any_process)
    return record


def _observe(run: Campaign, now: Position, record: StepRecord) -> Position:
    """Let the control judge the step, and go on to the next one."""
    return replace(
        now,
        step=record.step + 1,
        supervision=supervise.observe(now.supervision, record),
        pace=pace.observe(now.pace, record.metrics, run.stages.config.learn),
    )


def _go_back(run: Campaign, now: Position) -> tuple[Position, TrainState]:
    """Read the policy of the peak, and forget what the policy that is given up has drawn."""
    run.ahead.drop()
    run.checkpoints.wait()  # the peak may be on its way to the disk
    state = saved(run.stages, Checkpoint(run.number, now.peak.step))
    run.stages.progress.restored(now.peak.step, supervise.rates(now.supervision).lr)
    return replace(now, groups=()), state
