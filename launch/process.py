"""Run one chain as a process, and record its output and exit code in its launch log."""

import fcntl
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from shlex import join

from selfreg.run.standing import BEGUN, ENDED, LOG


class ChainProcess:
    """A running chain."""

    def __init__(
        self, arguments: Sequence[str], folder: Path, log: str = LOG, *, own_session: bool = True
    ):
        """Start the chain.

        Args:
          arguments: The arguments of selfreg.main.
          folder: The chain's run folder.
          log: The name of the launch log in the run folder.
          own_session: Start a session of its own, which neither Ctrl-C at the terminal nor signals
            from SLURM reach.
        """
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "selfreg.main", *arguments]
        self._log, self._since = folder / log, time.monotonic()
        with self._log.open("ab") as opened:
            # The chain inherits the lock, by which standing.is_running recognizes it. If another
            # process holds the lock, it is a reader, or the chain of an earlier launch. In the
            # latter case the new chain refuses to run.
            with suppress(BlockingIOError):
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            opened.write(f"{BEGUN}{join(command)}\n".encode())
            opened.flush()
            self.process = subprocess.Popen(
                command, stdout=opened, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                start_new_session=own_session,
            )  # fmt: skip

    def ended(self) -> int | None:
        """Return the exit code and log it if the chain has ended. Return None if it still runs."""
        code = self.process.poll()
        if code is not None:
            with self._log.open("ab") as opened:
                seconds = time.monotonic() - self._since
                opened.write(f"\n{ENDED}{code} after {seconds:.0f} s\n".encode())
        return code

    def wait(self) -> int:
        """Wait for the chain to end, log its exit code, and return it."""
        self.process.wait()
        code = self.ended()
        assert code is not None
        return code
