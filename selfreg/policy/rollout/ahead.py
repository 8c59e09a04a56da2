"""Start work one step ahead in a thread, and take its result at the next step."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """Runs at most one piece of work in the background, or none if switched off."""

    def __init__(self, on: bool) -> None:
        """Start a thread for the work if `on`."""
        self._thread = ThreadPoolExecutor(1) if on else None
        self._under_way: Future[T] | None = None

    def begin(self, work: Callable[[], T]) -> None:
        """Start `work` in the background, if switched on."""
        if self._thread is not None:
            self._under_way = self._thread.submit(work)

    def drop(self) -> None:
        """Wait for the work under way and discard its result."""
        self.take()

    def take(self) -> T | None:
        """Wait for the work under way and return its result, or None if no work was started.

        An exception in the work is raised here.
        """
        under_way, self._under_way = self._under_way, None
        return None if under_way is None else under_way.result()
