"""Reads a campaign's weights from checkpoints, and names those that a checkpoint holds."""

import sys
from typing import Any, NamedTuple

from selfreg.loop.stages import Stages
from selfreg.policy.learn.ewc import Anchor
from selfreg.policy.learn.train_step import TrainState
from selfreg.run.checkpoint import Checkpoints, DamagedError, restore
from selfreg.run.records import Checkpoint, Plan
from selfreg.run.rundir import CHECKPOINTS


class Held(NamedTuple):
    """The weights that a campaign's updates are pulled towards.

    Attributes:
      reference: The policy of the KL penalty or of a pair loss; None until one is needed.
      anchor: EWC's anchor; None without EWC, and before the first step has set it.
    """

    reference: Any = None
    anchor: Anchor | None = None


def resume(
    stages: Stages, campaign: int, plan: Plan, checkpoints: Checkpoints
) -> tuple[int, TrainState, Held]:
    """Read where a campaign goes on.

    A damaged checkpoint is set aside, and the campaign goes on from the last good one before it.
    It makes the steps between them again, and as it is deterministic they come out the same.

    Args:
      stages: The stages of the run.
      campaign: From 0.
      plan: The campaign's plan.
      checkpoints: Those of the campaign; without any the campaign begins.

    Returns:
      The step, the state there, and the weights that hold it.

    Raises:
      DamagedError: No checkpoint of the campaign can be read.
      ValueError: Records that the checkpoint rests on have changed.
    """
    damaged: dict[int, DamagedError] = {}
    for step in reversed(checkpoints.steps()):
        try:
            state, held = saved(stages, Checkpoint(campaign, step)), _held(stages, campaign, step)
            break
        except DamagedError as error:
            damaged[step] = error
    else:
        if damaged:
            raise damaged[max(damaged)]
        return 0, _first_state(stages, plan), Held()
    stages.log.check_rests(campaign, step, checkpoints.rests_on(step))
    for number, why in damaged.items():
        aside = checkpoints.set_aside(number)
        print(f"{why}. It is now {aside}; going on from step {step}", file=sys.stderr)
    return step, state, held


def _held(stages: Stages, campaign: int, step: int) -> Held:
    """Read the weights that hold a campaign at a step."""
    learn, anchor, reference = stages.config.learn, None, None
    if learn.ewc_coef:
        trained = "params" if stages.learner.like.averaged is None else "trained"
        read = _read(stages, Checkpoint(campaign, 0), trained, "fisher")
        anchor = Anchor(read[trained], read["fisher"])
    if _has_moved_reference(learn, step):
        reference = _read(stages, Checkpoint(campaign, step), "reference")["reference"]
    return Held(reference, anchor)


def saved(stages: Stages, checkpoint: Checkpoint) -> TrainState:
    """Read the state that `trees_of` was given for a checkpoint."""
    averages = stages.learner.like.averaged is not None
    names = ("params", "moments", "trained") if averages else ("params", "moments")
    read = _read(stages, checkpoint, *names)
    if not averages:
        return TrainState(**read)
    return TrainState(read["trained"], read["moments"], read["params"])


def trees_of(learn: Any, step: int, state: TrainState, held: Held) -> dict[str, Any]:
    """Name the trees that the checkpoint of a step holds.

    `params` are the weights that were measured and roll forward.

    Args:
      learn: The config's section.
      step: The step of the campaign.
      state: The state there.
      held: The weights that hold it.
    """
    trees = {"params": state.kept, "moments": state.moments}
    if state.averaged is not None:
        trees["trained"] = state.params
    if _has_moved_reference(learn, step):
        trees["reference"] = held.reference
    if held.anchor is not None and step == 0:
        trees["fisher"] = held.anchor.fisher
    return trees


def first_reference(stages: Stages, plan: Plan) -> Any:
    """Read the policy that the KL penalty or a pair loss begins with."""
    if plan.start is None or stages.config.learn.kl_reference == "base":
        return stages.initial()
    return _read(stages, plan.start, "params")["params"]


def moves_reference(learn: Any, step: int) -> bool:
    """Return whether the policy of this step becomes the reference."""
    return _has_moved_reference(learn, step) and step % learn.reference_every_steps == 0


def _has_moved_reference(learn: Any, step: int) -> bool:
    return 0 < learn.reference_every_steps <= step


def _first_state(stages: Stages, plan: Plan) -> TrainState:
    if plan.start is None:
        return stages.learner.init(stages.initial())
    if stages.config.optimizer.reset_each_campaign:
        return stages.learner.init(_read(stages, plan.start, "params")["params"])
    return saved(stages, plan.start)


def _read(stages: Stages, checkpoint: Checkpoint, *names: str) -> dict[str, Any]:
    """Read trees of a checkpoint of this chain onto the mesh."""
    whole = stages.learner.like
    like = {name: whole.moments if name == "moments" else whole.params for name in names}
    return restore(stages.log.folder / CHECKPOINTS, checkpoint, like)
