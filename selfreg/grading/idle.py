"""End tests that wait for something their program never does, such as setting an event.

Such tests use no CPU time and make no requests to the program, so that no other limit applies.
"""

import contextlib
import signal
import time
from collections.abc import Iterator
from types import CodeType, FrameType

IDLE_S = 10.0
_LOOK_S = 0.5
_BUSY_S = 0.05  # CPU seconds that a busy process uses between two looks


class TestsWait(BaseException):
    """The tests have waited for too long. A test's `except Exception` does not catch this."""

    __test__ = False


class Watch:
    """Counts the time in which a process waits.

    Attributes:
      has_ended: Whether the process has waited for too long.
    """

    def __init__(self, excused: CodeType) -> None:
        """Begin. While the code `excused` runs, waiting does not count."""
        self.has_ended = False
        self._excused = excused
        self._left_s, self._used_s = IDLE_S, time.process_time()

    def look(self, _: int, frame: FrameType | None) -> None:
        """Count one `_LOOK_S` if the process waits, however late the look comes.

        Raises:
          TestsWait: The process has waited for too long.
        """
        used_s = time.process_time()
        is_busy, self._used_s = used_s - self._used_s > _BUSY_S, used_s
        while frame is not None and frame.f_code is not self._excused:
            frame = frame.f_back
        if is_busy or frame is not None:
            return
        self._left_s -= _LOOK_S
        if self._left_s <= 0:
            self.has_ended, self._left_s = True, 2 * _LOOK_S  # raise again if the tests continue
            raise TestsWait


@contextlib.contextmanager
def watched(excused: CodeType) -> Iterator[Watch]:
    """Watch the main thread inside the block: see `Watch`."""
    watch = Watch(excused)
    before = signal.signal(signal.SIGALRM, watch.look)
    signal.setitimer(signal.ITIMER_REAL, _LOOK_S, _LOOK_S)
    try:
        yield watch
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
