r"""Defines the records that flow through selfreg, in the order in which they are made.

    Problem -> Rollout -> Grade -> Group -> Batch -> TrainState -> next step
                              \-> StepRecord -> Trace -> Verdict / Plan -> next campaign

Every stage takes a record and returns a new one. Records are frozen. Nothing here imports jax, so
that a laptop can read a run. Docstrings of the package use these letters for shapes:

    P  problems a step          G  completions a problem (the group)    B = P * G  sequences
    T  tokens (padded)          V  vocabulary                           A  alternatives a token

Rates are fractions in [0, 1]; times are seconds; logprobs are natural logarithms.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from selfreg.run.graded import (
    Checker,
    FinishReason,
    Grade,
    Group,
    Language,
    Outcome,
    Problem,
    Request,
    Rollout,
    Sampling,
    StdioCase,
    Tests,
    Unjudged,
)

__all__ = [
    "Answer",
    "Checker",
    "Checkpoint",
    "FinishReason",
    "Grade",
    "Group",
    "Language",
    "Outcome",
    "PanelScore",
    "Peak",
    "Plan",
    "Problem",
    "Request",
    "Rollout",
    "Sampling",
    "StdioCase",
    "StepRecord",
    "Tests",
    "Trace",
    "Unjudged",
    "Verdict",
    "find_peak",
    "peak_index",
    "to_json",
]

# --- What a run leaves behind ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PanelScore:
    """pass@1 on a fixed panel of N problems with n completions each.

    Attributes:
      problem_ids: The N problems, in a fixed order, so that two scores can be paired.
      pass_rates: float64 [N], the fraction of each problem's judged completions that pass; NaN for
        a problem without any.
      samples: n, completions a problem.
    """

    problem_ids: tuple[str, ...]
    pass_rates: np.ndarray
    samples: int

    @property
    def pass_at_1(self) -> float:
        """The mean over problems that have a judged completion."""
        return float(np.nanmean(self.pass_rates))

    @property
    def standard_error(self) -> float:
        """The standard error of the mean, clustered by problem: sd(pass_rates) / sqrt(N)."""
        rates = self.pass_rates[~np.isnan(self.pass_rates)]
        return float(np.std(rates, ddof=1) / np.sqrt(len(rates)))


@dataclass(frozen=True, slots=True)
class StepRecord:
    """The measurements of one step of a campaign, and of the update made there.

    Step s is about the policy after s updates: its samples, its panel score, and then the update
    that makes the policy of step s + 1. So `checkpoint s` is the policy that record s measured. The
    last record of a campaign holds measurements only.

    Attributes:
      campaign: From 0.
      step: From 0 in each campaign.
      metrics: Numbers by name; docs/metrics.md defines each. A metric that was not measured at this
        step is absent, never 0 or NaN.
      rates: The panel's mean reward by problem, in the panel's order; empty if the panel was not
        measured.
    """

    campaign: int
    step: int
    metrics: Mapping[str, float]
    rates: tuple[float, ...] = ()


def peak_index(values: ArrayLike) -> np.ndarray:
    """Find the peak of series: the first of the highest values. The package has no other rule.

    Args:
      values: float [..., n], NaN where nothing was measured.

    Returns:
      int64 [...]; 0 where a series holds NaN alone.
    """
    series = np.asarray(values, np.float64)
    return np.where(np.isnan(series), -np.inf, series).argmax(axis=-1)


@dataclass(frozen=True, slots=True)
class Peak:
    """The highest value of a metric over some records, and the first checkpoint that has it.

    Before anything is measured the value is -inf, and the checkpoint is where the chain starts.
    """

    value: float = -math.inf
    campaign: int = 0
    step: int = 0


def find_peak(records: Iterable[StepRecord], metric: str, so_far: Peak = Peak()) -> Peak:
    """Find the peak of a metric over records.

    Args:
      records: In order; those without the metric do not count.
      metric: The metric's name.
      so_far: The peak of the records before these.
    """
    own = [Peak(r.metrics[metric], r.campaign, r.step) for r in records if metric in r.metrics]
    peaks = [so_far, *own]
    return peaks[peak_index([peak.value for peak in peaks])]


@dataclass(frozen=True, slots=True)
class Trace:
    """One finished campaign, as the controls and the analysis see it.

    Attributes:
      campaign: From 0.
      metric: The metric that the controls read.
      records: The record of every step.
      capabilities: The scores at the campaign's "start", "peak" and "end" on the panels of
        config.evaluation.capabilities: place -> name -> pass@1.
    """

    campaign: int
    metric: str
    records: tuple[StepRecord, ...]
    capabilities: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def series(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the steps (int64 [n]) and values (float64 [n]) at which `metric` was measured."""
        rows = [(r.step, r.metrics[self.metric]) for r in self.records if self.metric in r.metrics]
        if not rows:
            raise ValueError(f"campaign {self.campaign} has no measurement of {self.metric!r}")
        steps, values = zip(*rows, strict=True)
        return np.array(steps, np.int64), np.array(values, np.float64)

    @property
    def peak_step(self) -> int:
        """The step of the peak of `metric`."""
        steps, values = self.series()
        return int(steps[peak_index(values)])

    @property
    def end_step(self) -> int:
        """The campaign's last step."""
        return self.records[-1].step


# --- What the controls say ------------------------------------------------------------------------


class Verdict(StrEnum):
    """The verdict of a control within a campaign after a step."""

    CONTINUE = "continue"
    STOP = "stop"
    RESTORE_PEAK = "restore_peak"  # take the peak's weights and moments, and go on


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The name of a saved policy: a step of a campaign of this chain."""

    campaign: int
    step: int


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan of a control between campaigns for the next campaign.

    Attributes:
      start: The policy to start from; None for the chain's initial policy.
      budget_steps: The most updates that the campaign may make.
      lr: The peak learning rate.
      kl_coef: The weight of the KL penalty.
      reason: One line for the log and the report.
      temperature: The temperature of training samples; None for the config's.
      group_size: Completions a problem; None for the config's.
      action: The action of a gate, such as "reuse" or "pilot"; "" without a gate.
    """

    start: Checkpoint | None
    budget_steps: int
    lr: float
    kl_coef: float
    reason: str = ""
    temperature: float | None = None
    group_size: int | None = None
    action: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """A language model's answer to a control's question, or the reason that there is none.

    Attributes:
      text: The answer; "" without one.
      error: The reason that there is no answer; "" if there is one.
      question: The question.
      model: The model that was asked.
      prompt_tokens: The tokens that the model read, by its own count.
      completion_tokens: The tokens that it wrote.
      time_s: The seconds from the question to the answer.
    """

    text: str
    error: str = ""
    question: str = ""
    model: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    time_s: float = 0.0


def to_json(value: Any) -> Any:
    """Turn a frozen record into plain JSON data: enums by value, tuples and arrays as lists.

    NaN in an array stands for a missing number and becomes null.
    """
    if hasattr(value, "__dataclass_fields__"):
        return {name: to_json(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(v) for v in value]
    if isinstance(value, np.ndarray):
        return np.where(value == value, value, np.array(None)).tolist()
    if isinstance(value, np.generic):
        return value.item()
    return value
