"""Counts a chain's questions to a language model: their cost, and the answers of no use."""

from dataclasses import dataclass, replace

from selfreg.control.protocol import Base
from selfreg.run.records import Answer

MOST_CHARACTERS = 300  # of a failure, which may quote the model


@dataclass(frozen=True, slots=True)
class Asked:
    """Counts over a chain; plans.jsonl holds the prompts and answers.

    Attributes:
      questions: Questions asked.
      failures: The reason for each question without a usable answer.
      prompt_tokens: Tokens that the model read.
      completion_tokens: Tokens that it wrote.
      time_s: Seconds spent waiting.
    """

    questions: int = 0
    failures: tuple[str, ...] = ()
    prompt_tokens: int = 0
    completion_tokens: int = 0
    time_s: float = 0.0


def count(asked: Asked, answer: Answer, failure: str = "") -> Asked:
    """Count one more question; `failure` says why its answer was of no use, if it was."""
    return replace(
        asked,
        questions=asked.questions + 1,
        failures=(*asked.failures, *([failure[:MOST_CHARACTERS]] if failure else [])),
        prompt_tokens=asked.prompt_tokens + answer.prompt_tokens,
        completion_tokens=asked.completion_tokens + answer.completion_tokens,
        time_s=asked.time_s + answer.time_s,
    )


def check_endpoint(base: Base, control: str) -> None:
    """Refuse a control that asks a language model when the config names none.

    Raises:
      ValueError: config.control.llm_url is empty.
    """
    if not base.options["llm_url"]:
        raise ValueError(
            f"{control} asks a language model: config.control.llm_url='' must name an "
            "OpenAI-compatible endpoint, such as http://127.0.0.1:30000/v1"
        )
