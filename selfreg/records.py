r"""The records that flow through selfreg, in the order in which they are made.

    Problem -> Rollout -> Grade -> Group -> Batch -> TrainState -> next step
                              \-> StepRecord -> Trace -> Verdict / Plan -> next campaign

Every stage takes a record and returns a new one. Records are frozen; nothing here imports jax, so
that a laptop can read a run. Shape letters, here and in every docstring of the package:

    P  problems a step          G  completions a problem (the group)    B = P * G  sequences
    T  tokens (padded)          V  vocabulary                           A  alternatives a token

Rates are fractions in [0, 1]; times are seconds; logprobs are natural logarithms.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np

# --- Problems -------------------------------------------------------------------------------------


class Language(StrEnum):
    """The programming languages that the grader runs."""

    PYTHON = "python"
    CPP = "cpp"


@dataclass(frozen=True, slots=True)
class StdioCase:
    """One case of a stdin/stdout problem.

    Attributes:
      stdin: What the program reads.
      stdout: What it should write.
      alternatives: Other outputs that are right, for the checker "any_of".
    """

    stdin: str
    stdout: str
    alternatives: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Checker:
    """How an output is compared with the wanted one; docs/data.md describes each name.

    Attributes:
      name: "exact", "lines", "tokens", "floats", "caseless", "unordered", "any_of" or "program".
      absolute: How far a number may be from the wanted one; None compares numbers as text, unless
        `relative` is set.
      relative: The same in proportion to the wanted number. A number is right within either.
      caseless: Whether upper and lower case are alike.
      program: Source of a program that decides; only for the name "program".
      language: Of that program.
      protocol: "testlib" (arguments: input, output, answer; the exit status decides) or "printed"
        (arguments: input, answer, output; it prints 1 for a right output and 0 for a wrong one).
    """

    name: str = "lines"
    absolute: float | None = None
    relative: float | None = None
    caseless: bool = False
    program: str = ""
    language: Language = Language.PYTHON
    protocol: str = "testlib"


@dataclass(frozen=True, slots=True)
class Tests:
    """What a program must pass. Exactly one of `code` and `stdio` is not empty.

    Attributes:
      setup: Source that runs before the program: imports and helpers that it may use.
      code: Source that calls the program and runs to its end when that is right: statements in its
        namespace (Python), or a `main` beside a function that stands for the program's (C++).
      stdio: Cases for a whole program that reads standard input and writes standard output.
      checker: How an output is compared with that of its case.
    """

    setup: str = ""
    code: str = ""
    stdio: tuple[StdioCase, ...] = ()
    checker: Checker = Checker()
    __test__ = False  # pytest would take the name for its own

    def __post_init__(self) -> None:
        if bool(self.code) == bool(self.stdio):
            raise ValueError("Tests need either code or stdio cases, and not both")
        if self.checker.name != "any_of" and any(case.alternatives for case in self.stdio):
            raise ValueError("only the checker 'any_of' takes alternatives of an output")


@dataclass(frozen=True, slots=True)
class Problem:
    """One programming problem, whatever data set it comes from.

    Attributes:
      id: Unique in a data set, for example "HumanEval/0".
      spec: What is asked, in words. For a signature-style problem the docstring is part of it.
      tests: What the program must pass.
      language: The language of the program.
      entry_point: The function the tests call; None for a stdin/stdout program.
      starter: Source that the answer continues (a HumanEval prompt: imports, signature, docstring)
        or must fit (an APPS starter); empty when the answer is a whole program. It declares the
        function that C++ tests call, or the solution does.
      solution: A canonical program that passes the tests; None where the data set has none.
      time_limit_s: CPU seconds a program may use.
      memory_limit_mb: Address space a program may use, in MiB.
      split: "train", "main", "hard", "ood" or "cpp"; "" where the data set has no split.
      category: A free label, such as a difficulty or a C1..C5 category.
      evaluation_only: Whether its licence forbids training on it.
      cpp_standard: Of a C++ program, such as "c++20"; "" for that of config.grading.cpp_options.
    """

    id: str
    spec: str
    tests: Tests
    language: Language = Language.PYTHON
    entry_point: str | None = None
    starter: str = ""
    solution: str | None = None
    time_limit_s: float = 3.0
    memory_limit_mb: int = 1024
    split: str = ""
    category: str = ""
    evaluation_only: bool = False
    cpp_standard: str = ""


# --- Rollouts and grades --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sampling:
    """How completions are drawn. `top_p=1` and `top_k=0` switch those filters off."""

    temperature: float
    top_p: float
    top_k: int
    max_new_tokens: int
    num_alter_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt and the seeds of the completions wanted for it, one completion a seed.

    Attributes:
      prompt_ids: int32 [prompt length].
      seeds: uint32 [G]; a completion is a pure function of (weights, prompt, seed, sampling).
    """

    prompt_ids: np.ndarray
    seeds: np.ndarray


class FinishReason(StrEnum):
    """Why a completion ended: at a stop token, or cut at `max_new_tokens`."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled completion.

    Attributes:
      prompt_ids: int32 [prompt length].
      completion_ids: int32 [length], the stop token included when there is one.
      logprobs: float32 [length], log_softmax(logits / temperature) of each drawn token, before
        top-p and top-k renormalize (the convention of SGLang).
      text: The completion decoded without special tokens.
      finish_reason: Why it ended.
      alter_ids: int32 [length, A], the most likely tokens at each position, best first.
      alter_logprobs: float32 [length, A], their logprobs.
      versions: The names of the weights that drew it, in order; more than one when they changed on
        the way.
    """

    prompt_ids: np.ndarray
    completion_ids: np.ndarray
    logprobs: np.ndarray
    text: str
    finish_reason: FinishReason
    alter_ids: np.ndarray | None = None
    alter_logprobs: np.ndarray | None = None
    versions: tuple[str, ...] = ()


class Outcome(StrEnum):
    """What became of one graded program. Only PASSED earns reward 1.

    TEST_ERROR and INFRA_ERROR are no verdicts on a program and never a reward of 0: the problem's
    tests are broken whatever the program, or the grader itself failed after all its retries.
    """

    PASSED = "passed"
    FAILED = "failed"  # an assertion of the tests did not hold
    WRONG_OUTPUT = "wrong_output"  # stdout differs
    EXCEPTION = "exception"
    TIMEOUT = "timeout"
    MEMORY = "memory"
    COMPILE_ERROR = "compile_error"  # C++ that does not compile, Python that does not parse
    NO_CODE = "no_code"  # the completion holds no program
    TEST_ERROR = "test_error"
    INFRA_ERROR = "infra_error"


@dataclass(frozen=True, slots=True)
class Grade:
    """The grader's verdict on one program.

    Attributes:
      outcome: What became of it.
      time_s: CPU seconds that it used, over all its cases, compilation left out.
      detail: The last line of the error, for a person to read; never evidence.
      peak_mb: The most memory that it held at a time, in MiB. The interpreter is part of it.
    """

    outcome: Outcome
    time_s: float = 0.0
    detail: str = ""
    peak_mb: float = 0.0

    @property
    def is_verdict(self) -> bool:
        """Whether this says something about the program."""
        return self.outcome not in (Outcome.TEST_ERROR, Outcome.INFRA_ERROR)

    @property
    def reward(self) -> float:
        """1.0 for a pass, 0.0 for a program that did not.

        Raises:
          ValueError: There is no verdict on the program.
        """
        if not self.is_verdict:
            raise ValueError(f"{self.outcome.value} is no verdict: {self.detail}")
        return float(self.outcome is Outcome.PASSED)


@dataclass(frozen=True, slots=True)
class Unjudged:
    """A completion that the grader could not judge: it has no reward, and nothing learns from it.

    Attributes:
      rollout: The completion.
      program: Its program.
      grade: TEST_ERROR or INFRA_ERROR, and why.
    """

    rollout: Rollout
    program: str
    grade: Grade


@dataclass(frozen=True, slots=True)
class Group:
    """The completions of one problem in one step, and their programs and grades.

    Attributes:
      problem: What they are to solve.
      rollouts: The completions with a verdict; G where none is unjudged.
      programs: One for each of them.
      grades: One for each of them.
      unjudged: The other completions.
    """

    problem: Problem
    rollouts: tuple[Rollout, ...]
    programs: tuple[str, ...]
    grades: tuple[Grade, ...]
    unjudged: tuple[Unjudged, ...] = ()

    @property
    def size(self) -> int:
        """G, unjudged completions included."""
        return len(self.rollouts) + len(self.unjudged)

    @property
    def rewards(self) -> np.ndarray:
        """float32 [completions with a verdict], each 0 or 1."""
        return np.array([grade.reward for grade in self.grades], np.float32)

    @property
    def has_signal(self) -> bool:
        """Whether rewards differ. Where they do not, rewards less their mean are all 0."""
        return len({grade.reward for grade in self.grades}) > 1


@dataclass(frozen=True, slots=True)
class Batch:
    """What one update learns from, a completion a line, and where each token is computed.

    Attributes:
      prompt_ids: int32 [P, width], right-padded; each is kept once for the G that share it.
      prompt_lengths: int32 [P].
      completion_ids: int32 [B, T], right-padded.
      completion_mask: float32 [B, T], 1 on completion tokens. Unjudged completions have none.
      logprobs: float32 [B, T], the sampler's, 0 on padding.
      advantages: float32 [B].
      token_weights: float32 [B, T], how much each token's loss counts; the batch's loss is the sum
        of weight x token loss, so that the losses of microbatches add up to it exactly.
      slots: int32 [widths, R, widest], the tokens side by side in rows: see selfreg.learn.packing.
    """

    prompt_ids: np.ndarray
    prompt_lengths: np.ndarray
    completion_ids: np.ndarray
    completion_mask: np.ndarray
    logprobs: np.ndarray
    advantages: np.ndarray
    token_weights: np.ndarray
    slots: np.ndarray


# --- What a run leaves behind ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PanelScore:
    """pass@1 on a fixed panel of N problems with n completions each.

    Attributes:
      problem_ids: The N problems, in a fixed order, so that two scores can be paired.
      pass_rates: float64 [N], the fraction of each problem's judged completions that pass; NaN
        where none was judged.
      samples: n, completions a problem.
    """

    problem_ids: tuple[str, ...]
    pass_rates: np.ndarray
    samples: int

    @property
    def pass_at_1(self) -> float:
        """Mean over problems, those without a judged completion left out."""
        return float(np.nanmean(self.pass_rates))

    @property
    def standard_error(self) -> float:
        """Standard error of the mean, clustered by problem: sd(pass_rates) / sqrt(N)."""
        rates = self.pass_rates[~np.isnan(self.pass_rates)]
        return float(np.std(rates, ddof=1) / np.sqrt(len(rates)))


@dataclass(frozen=True, slots=True)
class StepRecord:
    """What was measured at one step of a campaign, and the update made there.

    Step s speaks of the policy after s updates: its samples, its panel score, then the update that
    makes the policy of step s + 1. So `checkpoint s` is the very policy that record s measured. The
    last record of a campaign holds measurements only.

    Attributes:
      campaign: From 0.
      step: From 0 in each campaign.
      metrics: Named numbers; docs/metrics.md defines each. A metric that was not measured at this
        step is absent, never 0 or NaN.
      rates: The panel's mean reward by problem, in the panel's order; empty where it was not
        measured.
    """

    campaign: int
    step: int
    metrics: Mapping[str, float]
    rates: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Trace:
    """One finished campaign, as the controls and the analysis see it.

    Attributes:
      campaign: From 0.
      metric: The number that the controls read.
      records: Every step.
      capabilities: What was measured at the campaign's "start", "peak" and "end" on the panels of
        config.evaluation.capabilities: place -> name -> pass@1.
    """

    campaign: int
    metric: str
    records: tuple[StepRecord, ...]
    capabilities: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def series(self) -> tuple[np.ndarray, np.ndarray]:
        """Steps (int64 [n]) and values (float64 [n]) of `metric` where it was measured."""
        rows = [(r.step, r.metrics[self.metric]) for r in self.records if self.metric in r.metrics]
        if not rows:
            raise ValueError(f"campaign {self.campaign} has no measurement of {self.metric!r}")
        steps, values = zip(*rows, strict=True)
        return np.array(steps, np.int64), np.array(values, np.float64)

    @property
    def peak_step(self) -> int:
        """The first step at which `metric` is at its maximum."""
        steps, values = self.series()
        return int(steps[np.argmax(values)])

    @property
    def end_step(self) -> int:
        """The campaign's last step."""
        return self.records[-1].step


# --- What the controls say ------------------------------------------------------------------------


class Verdict(StrEnum):
    """What a within-campaign control says after a step."""

    CONTINUE = "continue"
    STOP = "stop"
    RESTORE_PEAK = "restore_peak"  # weights and moments of the peak; then go on


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Names a saved policy: a step of a campaign of this chain."""

    campaign: int
    step: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What a between-campaign control orders for the next campaign.

    Attributes:
      start: The policy it starts from; None for the chain's initial policy.
      budget_steps: The most updates it may make.
      lr: Peak learning rate.
      kl_coef: Weight of the KL penalty.
      reason: One line for the log and the report.
      temperature: Of training samples; None: the config's.
      group_size: Completions a problem; None: the config's.
      action: What a gate decided, such as "reuse" or "pilot"; "" where there is no gate.
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
    """What a language model answered to a control's question, or why it did not.

    Attributes:
      text: The answer; "" when there is none.
      error: Why there is none; "" when there is one.
      question: What was asked.
      model: Who was asked.
      prompt_tokens: Read by the model, as it counts them.
      completion_tokens: Written by it.
      time_s: From asking to the answer.
    """

    text: str
    error: str = ""
    question: str = ""
    model: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    time_s: float = 0.0


def to_json(value: Any) -> Any:
    """A frozen record as plain JSON data: enums by value, tuples as lists, arrays as lists.

    NaN in an array, which says that there is no number, becomes null.
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
