"""Work that is begun one step ahead, in a thread, and taken at the next."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """At most one piece of work under way; none at all when it is switched off."""

    def __init__(self, on: bool) -> None:
        """Args: whether anything is begun ahead."""
        self._thread = ThreadPoolExecutor(1) if on else None
        self._under_way: Future[T] | None = None

    def begin(self, work: Callable[[], T]) -> None:
        """Begin some work, if this is on."""
        if self._thread is not None:
            self._under_way = self._thread.submit(work)

    def drop(self) -> None:
        """Wait for what was begun, and forget it."""
        self.take()

    def take(self) -> T | None:
        """Wait for what was begun, and raise what it raises; None when nothing was."""
        under_way, self._under_way = self._under_way, None
        return None if under_way is None else under_way.result()
