"""One chain as a process, its output and its end kept in the run folder's launch log."""

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
        """Start it.

        Args:
          arguments: Of selfreg.main.
          folder: Its run folder.
          log: The name of its launch log there.
          own_session: Ctrl-C at the terminal, and what SLURM sends to a job, does not reach it.
        """
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "selfreg.main", *arguments]
        self._log, self._since = folder / log, time.monotonic()
        with self._log.open("ab") as opened:
            # The chain inherits the lock, for standing.is_running. Where another has it, that is a
            # reader, or the chain of an earlier launch, beside which this one will not run.
            with suppress(BlockingIOError):
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            opened.write(f"{BEGUN}{join(command)}\n".encode())
            opened.flush()
            self.process = subprocess.Popen(
                command, stdout=opened, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                start_new_session=own_session,
            )  # fmt: skip

    def ended(self) -> int | None:
        """Its exit code once it has ended, which is then in the log; None: it goes on."""
        code = self.process.poll()
        if code is not None:
            with self._log.open("ab") as opened:
                seconds = time.monotonic() - self._since
                opened.write(f"\n{ENDED}{code} after {seconds:.0f} s\n".encode())
        return code

    def wait(self) -> int:
        """Its exit code, when it ends."""
        self.process.wait()
        code = self.ended()
        assert code is not None
        return code
