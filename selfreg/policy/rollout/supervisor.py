"""Run a command, and end it and all its descendants when standard input closes.

This runs as a script, without the package: `python supervisor.py COMMAND...`. A pipe closes even if
the process at its other end is killed, which that process could not handle itself.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_GRACE_S = 10.0


def _descendants() -> list[int]:
    """Return all descendants of this process. As a subreaper, it also adopts orphans."""
    found, waiting = [], [os.getpid()]
    while waiting:
        for task in Path(f"/proc/{waiting.pop()}/task").glob("*/children"):
            try:
                children = [int(pid) for pid in task.read_text().split()]
            except OSError:  # the process has just ended
                continue
            found += children
            waiting += children
    return found


def _reap() -> bool:
    """Reap children that have ended, and return whether any children are left."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def main() -> int:
    """Run the command and return its exit status, or 0 if standard input closed first."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    server = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    ended = os.pidfd_open(server.pid)
    select.select([0, ended], [], [])
    status = server.poll()
    # Let the server end its own processes first. If all were killed at once, they would report a
    # crash.
    if status is None:
        server.terminate()
        select.select([ended], [], [], _GRACE_S)
    while _reap():
        for pid in _descendants():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    return status or 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(main())
