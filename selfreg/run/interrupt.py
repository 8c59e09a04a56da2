"""Ctrl-C that cannot get lost.

Python drops an exception that is raised inside a gc callback, and jax has such a callback: now and
then a KeyboardInterrupt falls there, and the run would go on as if nobody had asked.
"""

import signal
from collections.abc import Callable
from types import FrameType

_asked, _at_once = False, True


def install(*, at_once: bool = True) -> None:
    """From here on Ctrl-C raises KeyboardInterrupt, and `check` raises it again if it got lost.

    Args:
      at_once: False: the first Ctrl-C waits for `check`, and only a second one does not. So several
        processes can end together; one that broke off would leave the others waiting for it.

    Raises:
      KeyboardInterrupt: One has waited, and `at_once` asks for no more waiting.
    """
    global _at_once
    _at_once = at_once
    signal.signal(signal.SIGINT, _interrupt)
    if at_once:
        check()


def check(agree: Callable[[bool], bool] = bool) -> None:
    """Call now and then.

    Args:
      agree: From whether this process was asked, whether any was.

    Raises:
      KeyboardInterrupt: Somebody has pressed Ctrl-C.
    """
    if agree(_asked):
        raise KeyboardInterrupt


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    global _asked
    again, _asked = _asked, True
    if _at_once or again:
        raise KeyboardInterrupt
