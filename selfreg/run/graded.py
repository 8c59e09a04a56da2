"""Defines the records of one step: problems, the completions that answer them, and their grades.

Import them from selfreg.run.records, which holds all records.
"""

from dataclasses import dataclass
from enum import StrEnum

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
    """The tests that a program must pass. Exactly one of `code` and `stdio` is not empty.

    Attributes:
      setup: Source that runs before the program: imports and helpers that the program may use.
      code: Source that calls the program, and runs to its end if the program is right. In Python
        these are statements in the program's namespace; in C++ a `main` that calls its function.
      stdio: Cases for a whole program that reads standard input and writes standard output.
      checker: How an output is compared with that of its case.
    """

    setup: str = ""
    code: str = ""
    stdio: tuple[StdioCase, ...] = ()
    checker: Checker = Checker()
    __test__ = False  # pytest would take the class for a test

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
      spec: The task, in words. For a signature-style problem the docstring is part of it.
      tests: The tests that a program must pass.
      language: The language of the program.
      entry_point: The function that the tests call; None for a stdin/stdout program.
      starter: Source that the answer continues (a HumanEval prompt: imports, signature, docstring)
        or must fit (an APPS starter); empty if the answer is a whole program. For C++ tests the
        starter or the solution declares the function that they call.
      solution: A canonical program that passes the tests; None if the data set has none.
      time_limit_s: The CPU seconds that a program may use.
      memory_limit_mb: The address space that a program may use, in MiB.
      split: "train", "main", "hard", "ood" or "cpp"; "" if the data set has no split.
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
    """The sampling settings. `top_p=1` and `top_k=0` switch those filters off."""

    temperature: float
    top_p: float
    top_k: int
    max_new_tokens: int
    num_alter_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt, and one seed for each completion wanted.

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
      finish_reason: The reason that it ended.
      alter_ids: int32 [length, A], the most likely tokens at each position, best first.
      alter_logprobs: float32 [length, A], their logprobs.
      versions: The names of the weights that drew it, in order; more than one if the weights
        changed meanwhile.
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
    """The outcome of one graded program. Only PASSED earns reward 1.

    TEST_ERROR and INFRA_ERROR are no verdicts on a program, and never a reward of 0. TEST_ERROR
    says that the problem's tests are broken for any program, and INFRA_ERROR that the grader itself
    failed after all its retries.
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
      outcome: The outcome.
      time_s: The CPU seconds over all its cases, without compilation.
      detail: The last line of the error, for people to read; never evidence.
      peak_mb: The most memory that it held at a time, with the interpreter, in MiB.
    """

    outcome: Outcome
    time_s: float = 0.0
    detail: str = ""
    peak_mb: float = 0.0

    @property
    def is_verdict(self) -> bool:
        """Whether the grade says something about the program."""
        return self.outcome not in (Outcome.TEST_ERROR, Outcome.INFRA_ERROR)

    @property
    def reward(self) -> float:
        """The reward: 1.0 for a program that passed, and 0.0 for one that did not.

        Raises:
          ValueError: There is no verdict on the program.
        """
        if not self.is_verdict:
            raise ValueError(f"{self.outcome.value} is no verdict: {self.detail}")
        return float(self.outcome is Outcome.PASSED)


@dataclass(frozen=True, slots=True)
class Unjudged:
    """A completion that the grader could not judge. It has no reward, and the policy ignores it.

    Attributes:
      rollout: The completion.
      program: Its program.
      grade: TEST_ERROR or INFRA_ERROR, with the reason.
    """

    rollout: Rollout
    program: str
    grade: Grade


@dataclass(frozen=True, slots=True)
class Group:
    """The completions of one problem in one step, and their programs and grades.

    Attributes:
      problem: The problem that they answer.
      rollouts: The completions with a verdict; all G if none is unjudged.
      programs: The program of each of these.
      grades: The grade of each of these.
      unjudged: The other completions.
    """

    problem: Problem
    rollouts: tuple[Rollout, ...]
    programs: tuple[str, ...]
    grades: tuple[Grade, ...]
    unjudged: tuple[Unjudged, ...] = ()

    @property
    def size(self) -> int:
        """G, including unjudged completions."""
        return len(self.rollouts) + len(self.unjudged)

    @property
    def rewards(self) -> np.ndarray:
        """The rewards, float32 [completions with a verdict], each 0 or 1."""
        return np.array([grade.reward for grade in self.grades], np.float32)

    @property
    def has_signal(self) -> bool:
        """Whether rewards differ. If they do not, every reward equals the mean: no advantage."""
        return len({grade.reward for grade in self.grades}) > 1
