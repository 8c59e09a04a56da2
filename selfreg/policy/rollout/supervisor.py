"""Runs a command and ends it, with all that it started, when standard input closes.

Started as a script, without the package: `python supervisor.py COMMAND...`. A pipe closes also when
its other end is killed, which no handler would see.
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
    """All that was started below this process; orphans came to it."""
    found, waiting = [], [os.getpid()]
    while waiting:
        for task in Path(f"/proc/{waiting.pop()}/task").glob("*/children"):
            try:
                children = [int(pid) for pid in task.read_text().split()]
            except OSError:  # it ended just now
                continue
            found += children
            waiting += children
    return found


def _reap() -> bool:
    """Take the ends of children; True while there are any."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def main() -> int:
    """Run the command; its exit status, or 0 when standard input closed before."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    server = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    ended = os.pidfd_open(server.pid)
    select.select([0, ended], [], [])
    status = server.poll()
    if status is None:  # it ends its own processes; all at once they would take that for a crash
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
