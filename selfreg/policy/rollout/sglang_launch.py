"""Starting SGLang servers, and ending them and all that they started, whatever happens.

A server runs below a small supervisor, which ends it when the supervisor's own standard input
closes: that happens too when the trainer is killed.
"""

import asyncio
import contextlib
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from selfreg.policy.rollout.engine import EngineError

_SUPERVISOR = Path(__file__).with_name("supervisor.py")
_STOP_S = 30.0
_LOG_LINES = 8


class LaunchError(EngineError):
    """A server does not start, or ended and cannot be started again."""


@dataclass(frozen=True, slots=True)
class LaunchSettings:
    """How a server is started.

    Attributes:
      python: The interpreter that has sglang.
      model: A Hugging Face folder.
      dtype: What it computes in.
      port: On this machine.
      tensor_parallel: Accelerators that split the model.
      memory_fraction: Of each accelerator's memory, for weights and cache; 0: SGLang's choice.
      gpus: What CUDA_VISIBLE_DEVICES is to say; "": left as it is.
      options: More of launch_server's options.
      environment: More variables, as NAME=VALUE.
      log: Where its output goes, appended.
    """

    python: str
    model: str
    dtype: str
    port: int
    tensor_parallel: int
    memory_fraction: float
    gpus: str
    options: str
    environment: str
    log: Path

    def command(self) -> list[str]:
        """The server's command line."""
        fraction = ["--mem-fraction-static", str(self.memory_fraction)]
        return [
            self.python, "-m", "sglang.launch_server", "--model-path", self.model,
            "--dtype", self.dtype, "--tp-size", str(self.tensor_parallel),
            "--host", "127.0.0.1", "--port", str(self.port),
            *(fraction if self.memory_fraction else []), *shlex.split(self.options),
        ]  # fmt: skip

    def variables(self, inherited: Mapping[str, str]) -> dict[str, str]:
        """The server's environment."""
        own = dict(pair.split("=", 1) for pair in shlex.split(self.environment))
        gpus = {"CUDA_VISIBLE_DEVICES": self.gpus} if self.gpus else {}
        return dict(inherited) | gpus | own


@dataclass
class Launched:
    """A server that this process started."""

    settings: LaunchSettings
    restarts_left: int = 3
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.settings.port}"

    def start(self) -> None:
        """Start it; it takes half a minute and more until it answers.

        Raises:
          LaunchError: The port is taken, or the interpreter is not there.
        """
        settings = self.settings
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", settings.port))
            except OSError as error:
                raise LaunchError(
                    f"config.sglang.port={settings.port} is taken ({error.strerror}): "
                    "another server may still run there; end it or name another port"
                ) from None
        settings.log.parent.mkdir(parents=True, exist_ok=True)
        with settings.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-S", str(_SUPERVISOR), *settings.command()],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=settings.variables(os.environ),
                start_new_session=True,  # a Ctrl-C is the trainer's, which then stops it
            )

    def check(self) -> None:
        """Raise if it has ended.

        Raises:
          LaunchError: With the last lines of its log.
        """
        if self._process is None or self._process.poll() is not None:
            lines = self.settings.log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
            shown = "\n  ".join(line[:300] for line in lines)
            raise LaunchError(
                f"the SGLang server ended; the end of its log {self.settings.log}:\n  {shown}"
            )

    async def revive(self) -> None:
        """Start it anew, whatever it is doing: one that hangs answers nobody.

        Raises:
          LaunchError: It ended too often.
        """
        if not self.restarts_left:
            raise LaunchError(
                f"the SGLang server was lost again after its last restart; see {self.settings.log}"
            )
        self.restarts_left -= 1
        await asyncio.to_thread(self.stop)
        self.start()

    def stop(self) -> None:
        """End it and all that it started."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            process.stdin.close()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def launch_all(settings: Sequence[LaunchSettings]) -> list[Launched]:
    """Start servers, side by side.

    Raises:
      LaunchError: One cannot be started; those before it are stopped.
    """
    launched = [Launched(each) for each in settings]
    try:
        for server in launched:
            server.start()
    except LaunchError:
        for server in launched:
            server.stop()
        raise
    return launched
