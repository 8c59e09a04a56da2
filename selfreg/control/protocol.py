"""Defines controls, at each of the two levels above the update."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

from selfreg.run.records import Answer, Checkpoint, Plan, StepRecord, Trace, Verdict


@dataclass(frozen=True, slots=True)
class Base:
    """The config's values for the controls of a chain; a control may depart from them.

    Attributes:
      budget_steps: The most updates of a campaign.
      lr: The peak learning rate.
      kl_coefs: The weight of the KL penalty by campaign; the last one stays.
      temperature: The temperature of training samples.
      group_size: Completions a problem.
      seed: The seed of a control's random draws.
      metric: The metric that controls read.
      capabilities: The names in config.evaluation.capabilities.
      memory: The content of another chain's memory file; empty where none is named.
      options: The config's section `control`.
      model: The config's model.path.
      calibration: The content of config.control.predictor_calibration; empty where there is none.
      match_updates: The updates of each campaign of the run config.control.match_updates_of.
      panel_every_steps: The steps between two measurements of the panel.
    """

    budget_steps: int
    lr: float
    kl_coefs: tuple[float, ...] = (0.0,)
    temperature: float = 1.0
    group_size: int = 1
    seed: int = 0
    metric: str = "pass_rate"
    capabilities: tuple[str, ...] = ()
    memory: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    model: str = ""
    calibration: Mapping[str, Any] = field(default_factory=dict)
    match_updates: tuple[int, ...] = ()
    panel_every_steps: int = 1

    def plan(self, campaign: int, start: Checkpoint | None, reason: str, **changes: Any) -> Plan:
        """Make the plan of a campaign: the config's hyperparameters, except for `changes`."""
        kl_coef = self.kl_coefs[min(campaign, len(self.kl_coefs) - 1)]
        return Plan(
            **{
                "start": start,
                "budget_steps": self.budget_steps,
                "lr": self.lr,
                "kl_coef": kl_coef,
                "reason": reason,
                **changes,
            }
        )


class Within(NamedTuple):
    """A control within a campaign.

    Attributes:
      start: (Base, Plan) -> state, at the first step.
      observe: (state, record) -> (state, verdict), after each update. The verdict is CONTINUE, or
        STOP to end early; selfreg.control.supervise may turn a STOP into RESTORE_PEAK.
    """

    start: Callable[[Base, Plan], Any]
    observe: Callable[[Any, StepRecord], tuple[Any, Verdict]]


class Between(NamedTuple):
    """A control between campaigns.

    States are frozen dataclasses of plain data. The run folder keeps them as JSON.

    Attributes:
      start: Base -> state, before the first campaign.
      plan: state -> the next campaign's plan.
      observe: (state, trace of the finished campaign) -> state.
      ask: state -> a question to a language model before the next plan, or None.
      hear: (state, its answer) -> state. The run folder keeps the answer, so a replay asks nobody.
      remember: state -> the content of memory.json, for people and for other chains.
    """

    start: Callable[[Base], Any]
    plan: Callable[[Any], Plan]
    observe: Callable[[Any, Trace], Any]
    ask: Callable[[Any], str | None] = lambda _: None
    hear: Callable[[Any, Answer], Any] = lambda state, _: state
    remember: Callable[[Any], Mapping[str, Any]] = lambda _: {}


def base_of(
    config: Mapping[str, Any],
    memory: Mapping[str, Any],
    calibration: Mapping[str, Any] = MappingProxyType({}),
    match_updates: tuple[int, ...] = (),
) -> Base:
    """Read the values for controls from a resolved config.

    Args:
      config: The config as config.json holds it.
      memory: The content of config.control.memory; empty where none is named.
      calibration: The content of config.control.predictor_calibration; empty where there is none.
      match_updates: The updates of each campaign of the run config.control.match_updates_of.
    """
    learn, rollout = config["learn"], config["rollout"]
    panels = config["evaluation"]["capabilities"]
    return Base(
        budget_steps=config["campaign_budget_steps"],
        lr=config["optimizer"]["lr"],
        kl_coefs=tuple(learn["kl_schedule"]) or (learn["kl_coef"],),
        temperature=rollout["temperature"],
        group_size=rollout["group_size"],
        seed=config["seed"],
        metric=config["control_metric"],
        capabilities=tuple(panel.partition("=")[0] for panel in panels),
        memory=memory,
        options=dict(config["control"]),
        model=config["model"]["path"],
        calibration=calibration,
        match_updates=match_updates,
        panel_every_steps=config["evaluation"]["every_steps"],
    )
