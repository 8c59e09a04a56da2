"""The interface of rollout engines."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from selfreg.run.records import Request, Rollout, Sampling


class EngineError(RuntimeError):
    """The engine cannot go on. The run can be resumed once the named cause is fixed."""


class Engine(Protocol):
    """Draws completions from the weights that it received last."""

    def load_params(self, params: Any, version: str) -> None:
        """Sample from these weights from now on, and label rollouts with `version`.

        The caller may donate its own copy of the weights afterwards.
        """

    def warm_up(self, calls: Iterable[Sequence[int]], group: int, sampling: Sampling) -> None:
        """Prepare for calls of these shapes, so that the run itself compiles nothing.

        Args:
          calls: For each possible call, the lengths of its prompts in tokens, in order. One call is
            enough for all that differ only in the position of their longest prompt.
          group: The number of completions per request.
          sampling: How completions will be drawn.
        """

    def generate(
        self, requests: Sequence[Request], sampling: Sampling
    ) -> list[tuple[Rollout, ...]]:
        """Draw one completion for each seed of each request, in order.

        All requests of a call must have the same number of seeds.
        """

    def release(self) -> None:
        """Give shared accelerator memory to the trainer until the next `load_params`."""

    def take_metrics(self) -> dict[str, float]:
        """Return the metrics since the last call, by name."""
