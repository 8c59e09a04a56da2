"""Makes sure that no Ctrl-C is lost.

Python drops an exception that is raised inside a gc callback. jax has such a callback, and now and
then a KeyboardInterrupt is raised there: the run would go on as if nobody had pressed Ctrl-C.
"""

import signal
from collections.abc import Callable
from types import FrameType

_asked, _at_once = False, True


def install(*, at_once: bool = True) -> None:
    """Install the handler of Ctrl-C: it raises KeyboardInterrupt, and `check` repeats a lost one.

    Args:
      at_once: Whether the first Ctrl-C raises immediately. If not, it waits for `check`, and only
        the second one raises immediately. Several processes can then end together; a process that
        ended alone would leave the others waiting for it.

    Raises:
      KeyboardInterrupt: A Ctrl-C was waiting, and `at_once` is true.
    """
    global _at_once
    _at_once = at_once
    signal.signal(signal.SIGINT, _interrupt)
    if at_once:
        check()


def check(agree: Callable[[bool], bool] = bool) -> None:
    """Raise the KeyboardInterrupt of a Ctrl-C that is still waiting; call this once a step.

    Args:
      agree: Whether this process got a Ctrl-C -> whether any process did.

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
