"""An engine with scripted answers, for testing everything around the policy."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from selfreg.run.records import FinishReason, Request, Rollout, Sampling


class ScriptedEngine:
    """Answers each seed of a request with the text that a function returns. Logprobs are 0."""

    def __init__(self, tokenizer: Any, answer: Callable[[Request, int], str]):
        """Make an engine.

        Args:
          tokenizer: Encodes the texts.
          answer: (request, index of the seed) -> text.
        """
        self._tokenizer = tokenizer
        self._answer = answer
        self.loads = 0  # the number of calls of load_params

    def load_params(self, params: Any, version: str = "") -> None:
        """See Engine. A script ignores the weights."""
        self.loads += 1

    def warm_up(self, *_: Any) -> None:
        """See Engine. A script compiles nothing."""

    def release(self) -> None:
        """See Engine."""

    def take_metrics(self) -> dict[str, float]:
        """See Engine."""
        return {}

    def generate(
        self, requests: Sequence[Request], sampling: Sampling
    ) -> list[tuple[Rollout, ...]]:
        """See Engine."""
        return [
            tuple(self._rollout(request, i, sampling) for i in range(len(request.seeds)))
            for request in requests
        ]

    def _rollout(self, request: Request, index: int, sampling: Sampling) -> Rollout:
        text = self._answer(request, index)
        ids = [*self._tokenizer.encode(text), self._tokenizer.eos_token_id]
        cut = ids[: sampling.max_new_tokens]
        return Rollout(
            prompt_ids=request.prompt_ids,
            completion_ids=np.array(cut, np.int32),
            logprobs=np.zeros(len(cut), np.float32),
            text=text,
            finish_reason=FinishReason.STOP if len(cut) == len(ids) else FinishReason.LENGTH,
        )
