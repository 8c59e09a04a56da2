"""What every rollout engine offers."""

from collections.abc import Sequence
from typing import Any, Protocol

from selfreg.records import Request, Rollout, Sampling


class Engine(Protocol):
    """Draws completions from the weights that it was last given."""

    def load_params(self, params: Any) -> None:
        """Sample from these weights from now on. The caller may donate its own copy afterwards."""

    def generate(
        self, requests: Sequence[Request], sampling: Sampling
    ) -> list[tuple[Rollout, ...]]:
        """One completion for each seed of each request, in order.

        All requests of a call want the same number of completions.
        """
