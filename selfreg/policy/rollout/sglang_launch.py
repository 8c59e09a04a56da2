"""Start SGLang servers, and make sure that they and their child processes end with the trainer.

Each server runs under a small supervisor, which ends the server when the supervisor's standard
input closes. The input closes even if the trainer is killed.
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
    """A server cannot be started, or it ended and cannot be restarted."""


@dataclass(frozen=True, slots=True)
class LaunchSettings:
    """The settings for starting a server.

    Attributes:
      python: A Python interpreter that has sglang installed.
      model: A Hugging Face folder.
      dtype: The dtype that the server computes in.
      port: The server's port on this machine.
      tensor_parallel: The number of accelerators that split the model.
      memory_fraction: The fraction of each accelerator's memory for weights and cache. 0: SGLang
        chooses.
      gpus: The value of CUDA_VISIBLE_DEVICES. "": leave it unchanged.
      options: Additional options of launch_server.
      environment: Additional environment variables, as NAME=VALUE.
      log: The file to which the server's output is appended.
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
        """Return the server's command line."""
        fraction = ["--mem-fraction-static", str(self.memory_fraction)]
        return [
            self.python, "-m", "sglang.launch_server", "--model-path", self.model,
            "--dtype", self.dtype, "--tp-size", str(self.tensor_parallel),
            "--host", "127.0.0.1", "--port", str(self.port),
            *(fraction if self.memory_fraction else []), *shlex.split(self.options),
        ]  # fmt: skip

    def variables(self, inherited: Mapping[str, str]) -> dict[str, str]:
        """Return the server's environment variables."""
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
        """The URL on which it listens."""
        return f"http://127.0.0.1:{self.settings.port}"

    def start(self) -> None:
        """Start the server. It takes half a minute or more before it answers.

        Raises:
          LaunchError: The port is taken.
        """
        settings = self.settings
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", settings.port))
            except OSError as error:
                raise LaunchError(
                    f"config.sglang.port={settings.port} is taken ({error.strerror}), perhaps by "
                    "another server: stop it or set another port"
                ) from None
        settings.log.parent.mkdir(parents=True, exist_ok=True)
        with settings.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-S", str(_SUPERVISOR), *settings.command()],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=settings.variables(os.environ),
                start_new_session=True,  # only the trainer gets Ctrl-C, and then stops the server
            )

    def check(self) -> None:
        """Raise an error if the server has ended.

        Raises:
          LaunchError: The server has ended. The message shows the last lines of its log.
        """
        if self._process is None or self._process.poll() is not None:
            lines = self.settings.log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
            shown = "\n  ".join(line[:300] for line in lines)
            raise LaunchError(
                f"the SGLang server ended. The last lines of {self.settings.log}:\n  {shown}"
            )

    async def revive(self) -> None:
        """Restart the server even if its process still runs, because it may hang.

        Raises:
          LaunchError: No restarts are left, or the port is taken.
        """
        if not self.restarts_left:
            raise LaunchError(
                f"the SGLang server was lost again after its last restart: see {self.settings.log}"
            )
        self.restarts_left -= 1
        await asyncio.to_thread(self.stop)
        self.start()

    def stop(self) -> None:
        """End the server and its child processes."""
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
    """Start servers without waiting for them to be ready.

    Raises:
      LaunchError: A server cannot be started. The others are stopped.
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
