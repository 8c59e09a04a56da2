"""Ctrl-C that cannot get lost.

Python drops an exception that is raised inside a gc callback, and jax has such a callback: now and
then a KeyboardInterrupt falls there, and the run would go on as if nobody had asked.
"""

import signal
from types import FrameType

_asked = False


def watch() -> None:
    """From here on Ctrl-C raises KeyboardInterrupt, and `check` raises it again if it got lost."""
    signal.signal(signal.SIGINT, _interrupt)


def check() -> None:
    """Call now and then.

    Raises:
      KeyboardInterrupt: Somebody has pressed Ctrl-C.
    """
    if _asked:
        raise KeyboardInterrupt


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    global _asked
    _asked = True
    raise KeyboardInterrupt
