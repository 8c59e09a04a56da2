"""Where a campaign goes on from: what its checkpoints hold, and the policy that it is held to."""

import sys
from typing import Any

from selfreg.loop.stages import Stages
from selfreg.policy.learn.ewc import Anchor
from selfreg.policy.learn.train_step import TrainState
from selfreg.run.checkpoint import Checkpoints, DamagedError, restore
from selfreg.run.records import Checkpoint, Plan
from selfreg.run.rundir import CHECKPOINTS


def stand(
    stages: Stages, campaign: int, plan: Plan, checkpoints: Checkpoints
) -> tuple[int, TrainState, Anchor | None]:
    """Return the step that a campaign goes on from, its state there, and EWC's anchor, if any.

    A damaged checkpoint is set aside, and the campaign goes on from the last good one before it:
    being deterministic, it makes the steps between them again.

    Args:
      stages: What it runs on.
      campaign: From 0.
      plan: Where the campaign begins, its moments are new or kept, as the config has it.
      checkpoints: Those of the campaign.

    Raises:
      DamagedError: No checkpoint of the campaign can be read.
      ValueError: Records that the checkpoint rests on are lost or changed.
    """
    damaged: dict[int, DamagedError] = {}
    for step in reversed(checkpoints.steps()):
        try:
            found = step, saved(stages, Checkpoint(campaign, step)), _anchor(stages, campaign)
            break
        except DamagedError as error:
            damaged[step] = error
    else:
        if damaged:
            raise damaged[max(damaged)]
        return 0, _first(stages, plan), None
    for step, error in damaged.items():
        print(f"{error}. Set aside as {checkpoints.set_aside(step)}", file=sys.stderr)
    stages.log.check_rests(campaign, found[0], checkpoints.rests_on(found[0]))
    if damaged:
        print(f"going on from step {found[0]} of campaign {campaign}", file=sys.stderr)
    return found


def _anchor(stages: Stages, campaign: int) -> Anchor | None:
    """What EWC holds a begun campaign to: the start, and how much each weight mattered there."""
    if not stages.config.learn.ewc_coef:
        return None
    trained = "params" if stages.learner.like.averaged is None else "trained"
    read = _read(stages, Checkpoint(campaign, 0), trained, "fisher")
    return Anchor(read[trained], read["fisher"])


def _first(stages: Stages, plan: Plan) -> TrainState:
    """The state in which a campaign begins."""
    if plan.start is None:
        return stages.learner.init(stages.initial())
    if stages.config.optimizer.reset_each_campaign:
        return stages.learner.init(_read(stages, plan.start, "params")["params"])
    return saved(stages, plan.start)


def trees_of(state: TrainState) -> dict[str, Any]:
    """What a checkpoint holds of a state: `params` are what was measured and rolls forward."""
    if state.averaged is None:
        return {"params": state.params, "moments": state.moments}
    return {"params": state.averaged, "moments": state.moments, "trained": state.params}


def saved(stages: Stages, checkpoint: Checkpoint) -> TrainState:
    """The state that `trees_of` was given for a checkpoint."""
    averages = stages.learner.like.averaged is not None
    names = ("params", "moments", "trained") if averages else ("params", "moments")
    read = _read(stages, checkpoint, *names)
    if not averages:
        return TrainState(**read)
    return TrainState(read["trained"], read["moments"], read["params"])


def first_reference(stages: Stages, plan: Plan) -> Any:
    """The frozen weights that the KL penalty or a pair loss holds on to."""
    if plan.start is None or stages.config.learn.kl_reference == "base":
        return stages.initial()
    return _read(stages, plan.start, "params")["params"]


def moves_reference(learn: Any, step: int) -> bool:
    """Whether the policy of this step becomes the reference."""
    every = learn.reference_every_steps
    return bool(every) and step > 0 and step % every == 0


def moved_reference(stages: Stages, campaign: int, step: int) -> Any:
    """The reference of a campaign that is resumed at a step; None where it is still the first."""
    every = stages.config.learn.reference_every_steps
    if not every or step < every:
        return None
    return _read(stages, Checkpoint(campaign, step), "reference")["reference"]


def _read(stages: Stages, checkpoint: Checkpoint, *names: str) -> dict[str, Any]:
    """Trees of a checkpoint of this chain, on the mesh."""
    whole = stages.learner.like
    like = {name: whole.moments if name == "moments" else whole.params for name in names}
    return restore(stages.log.folder / CHECKPOINTS, checkpoint, like)
