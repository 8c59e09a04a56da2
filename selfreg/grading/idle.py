"""Ends tests that wait for what their program never does, such as an event that it was to set.

They use no CPU time, and nothing is asked of the program meanwhile: no other limit sees them.
"""

import contextlib
import signal
import time
from collections.abc import Iterator
from types import CodeType, FrameType

IDLE_S = 10.0
_LOOK_S = 0.5
_BUSY_S = 0.05  # CPU seconds between two looks of a process that works


class TestsWait(BaseException):
    """The tests have waited for too long. No test's `except Exception` takes it."""

    __test__ = False


class Watch:
    """Counts the time in which a process waits.

    Attributes:
      has_ended: Whether it has waited for too long.
    """

    def __init__(self, excused: CodeType) -> None:
        """Begin; while the code `excused` runs, waiting does not count."""
        self.has_ended = False
        self._excused = excused
        self._left_s, self._used_s = IDLE_S, time.process_time()

    def look(self, _: int, frame: FrameType | None) -> None:
        """Count one `_LOOK_S` if the process waits, however late the look comes.

        Raises:
          TestsWait: It has waited for too long.
        """
        used_s = time.process_time()
        is_busy, self._used_s = used_s - self._used_s > _BUSY_S, used_s
        while frame is not None and frame.f_code is not self._excused:
            frame = frame.f_back
        if is_busy or frame is not None:
            return
        self._left_s -= _LOOK_S
        if self._left_s <= 0:
            self.has_ended, self._left_s = True, 2 * _LOOK_S  # once more if the tests go on
            raise TestsWait


@contextlib.contextmanager
def watched(excused: CodeType) -> Iterator[Watch]:
    """Have the main thread watched: see `Watch`."""
    watch = Watch(excused)
    before = signal.signal(signal.SIGALRM, watch.look)
    signal.setitimer(signal.ITIMER_REAL, _LOOK_S, _LOOK_S)
    try:
        yield watch
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
