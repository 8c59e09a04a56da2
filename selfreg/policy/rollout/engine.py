"""What every rollout engine offers."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from selfreg.run.records import Request, Rollout, Sampling


class EngineError(RuntimeError):
    """The engine cannot go on. The run can be resumed once what it names is mended."""


class Engine(Protocol):
    """Draws completions from the weights that it was last given."""

    def load_params(self, params: Any, version: str) -> None:
        """Sample from these weights from now on; rollouts carry the version.

        The caller may donate its own copy afterwards.
        """

    def warm_up(self, calls: Iterable[Sequence[int]], group: int, sampling: Sampling) -> None:
        """Get ready for calls of this kind, so that nothing is compiled during the run.

        Args:
          calls: The lengths of a call's prompts in tokens, in order, for each call that may come;
            of calls that differ only in where their longest prompt stands one is enough.
          group: Completions a request.
          sampling: How completions will be drawn.
        """

    def generate(
        self, requests: Sequence[Request], sampling: Sampling
    ) -> list[tuple[Rollout, ...]]:
        """One completion for each seed of each request, in order.

        All requests of a call want the same number of completions.
        """

    def release(self) -> None:
        """Give accelerator memory that is shared to the trainer, until the next `load_params`."""

    def take_metrics(self) -> dict[str, float]:
        """What happened since the last call, by the names of metrics."""
