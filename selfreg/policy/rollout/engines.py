"""Open the rollout engine that a config names."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from selfreg.policy.models.policy import TINY, Policy
from selfreg.policy.rollout.engine import Engine
from selfreg.policy.rollout.jax_engine import JaxEngine
from selfreg.policy.rollout.sglang_engine import Patience, SGLangEngine
from selfreg.policy.rollout.sglang_launch import LaunchSettings, launch_all
from selfreg.policy.rollout.weight_sync import WeightSync


@contextmanager
def open_engine(config: Any, policy: Policy, mesh: Mesh, workdir: Path) -> Iterator[Engine]:
    """Open an engine that has no weights yet, and close it at the end.

    Args:
      config: The run's config.
      policy: The policy to sample from.
      mesh: The mesh of the in-process engine.
      workdir: The folder for the logs of servers that this starts.

    Raises:
      ValueError: The engine cannot serve this run.
      EngineError, LaunchError: A server does not start.
    """
    rollout, sglang = config.rollout, config.sglang
    if rollout.engine == "jax":
        dtype = config.model.dtype
        yield JaxEngine(policy, mesh, dtype=dtype, max_sequences=rollout.max_sequences)
        return
    if jax.process_count() > 1:
        raise ValueError(
            "config.rollout.engine=sglang needs a trainer of one process, because one process must "
            "hold all weights to write them for the servers"
        )
    settings = _launch_settings(config, workdir) if sglang.launch else []
    sync = WeightSync(policy.config, dtype=config.model.dtype, parent=Path(sglang.sync_folder))
    launched = []
    try:
        launched = launch_all(settings)
        engine = SGLangEngine(
            policy,
            [server.url for server in launched] or sglang.urls.split(","),
            sync,
            patience=Patience(
                request_s=sglang.request_timeout_s,
                ready_s=sglang.ready_timeout_s,
                sync_s=sglang.sync_timeout_s,
            ),
            launched=launched,
            refuse_stale=sglang.refuse_stale,
            colocated=sglang.colocated,
        )
    except BaseException:
        for server in launched:
            server.stop()
        sync.close()
        raise
    try:
        yield engine
    finally:
        engine.close()


def _launch_settings(config: Any, workdir: Path) -> list[LaunchSettings]:
    sglang, model = config.sglang, config.model
    folder = TINY if model.path == "tiny" else Path(model.path)
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"config.model.path={model.path!r} is not a Hugging Face folder, which SGLang needs: "
            "name one, or write one with python -m selfreg.export"
        )
    gpus = sglang.gpus.split(";") if sglang.gpus else [""] * sglang.servers
    return [
        LaunchSettings(
            python=sglang.python,
            model=str(folder.absolute()),
            dtype=model.dtype,
            port=sglang.port + number,
            tensor_parallel=sglang.tensor_parallel,
            memory_fraction=sglang.memory_fraction,
            gpus=own,
            options=sglang.options,
            environment=sglang.environment,
            log=workdir / f"sglang_{sglang.port + number}.log",
        )
        for number, own in enumerate(gpus)
    ]
