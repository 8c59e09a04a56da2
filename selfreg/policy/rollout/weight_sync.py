"""Send new weights to SGLang servers: write them as safetensors, load them, and verify them.

A server answers 200 and adopts the new version even if it recognized no tensor's name and kept the
old weights. So the changes in its checksums are compared with the changes in the files.
"""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import safe_open

from selfreg.policy.models.adapted import unmerged
from selfreg.policy.models.decoder import DecoderConfig
from selfreg.policy.models.hf import save_weights
from selfreg.policy.rollout.engine import EngineError
from selfreg.policy.rollout.sglang_client import Held, Server, ServerLostError

# Tensors that SGLang fuses, and their parts in the files.
_FUSED = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
}
_SHARD_BYTES = 2 << 30


class SyncError(EngineError):
    """A server reported that it loaded new weights, but it did not."""


@dataclass(frozen=True, slots=True)
class WeightFiles:
    """Weights written for servers.

    Attributes:
      folder: A folder with safetensors files and nothing else.
      version: The version that servers report with every token drawn from these weights.
      bytes: The size of all files.
      before: The folder of the previous weights, kept until the next ones are written. None for the
        first weights.
    """

    folder: Path
    version: str
    bytes: int
    before: Path | None


class WeightSync:
    """The folder from which servers read weights."""

    def __init__(self, config: DecoderConfig, *, dtype: str, parent: Path) -> None:
        """Create the folder.

        Args:
          config: The decoder's shape.
          dtype: The dtype of the servers' weights.
          parent: The parent folder. Use a tmpfs (/dev/shm) for servers on this machine, and a
            shared file system for others.

        Raises:
          ValueError: The folder cannot be created there.
        """
        self._config, self._dtype = config, dtype
        try:
            self._folder = Path(tempfile.mkdtemp(prefix="selfreg-weights-", dir=parent))
        except OSError as error:
            raise ValueError(
                f"config.sglang.sync_folder={str(parent)!r} cannot be written: {error}"
            ) from None
        self._folder.chmod(0o755)  # a server may run as another user
        self._written: list[Path] = []

    def write(self, params: Any, version: str) -> WeightFiles:
        """Write weights, and keep only the previous ones, which show what has changed.

        The host holds one file's weights at a time. Each tensor is gathered from the mesh
        separately.

        Raises:
          ValueError: The disk has too little free space.
        """
        while len(self._written) > 1:
            shutil.rmtree(self._written.pop(0))
        size = sum(leaf.size for leaf in jax.tree.leaves(unmerged(params)[0]))
        wanted = size * jax.numpy.dtype(self._dtype).itemsize
        free = shutil.disk_usage(self._folder).free
        if wanted > free:
            raise ValueError(
                f"the weights need {wanted / 2**30:.1f} GiB in {self._folder}, but only "
                f"{free / 2**30:.1f} are free: set config.sglang.sync_folder"
            )
        folder = Path(tempfile.mkdtemp(prefix="weights-", dir=self._folder))
        folder.chmod(0o755)
        save_weights(folder, self._config, params, self._dtype, _SHARD_BYTES)
        before = self._written[-1] if self._written else None
        self._written.append(folder)
        total = sum(file.stat().st_size for file in folder.iterdir())
        return WeightFiles(folder, version, total, before)

    def close(self) -> None:
        """Remove the folder and all weights in it."""
        shutil.rmtree(self._folder, ignore_errors=True)


async def send(server: Server, files: WeightFiles, timeout_s: float) -> None:
    """Send new weights to a server, and verify that it holds them.

    Args:
      server: The server. It pauses meanwhile, and continues running requests afterwards.
      files: The weights.
      timeout_s: Timeout for the server to load them.

    Raises:
      SyncError: The server kept old weights.
      ServerLostError: The server does not answer.
      ServerRefusedError: The server cannot load the weights.
    """
    before = await _held_before(server, files)
    # A running request would delay the update. "retract" makes it restart after the update.
    await server.post("/pause_generation", {"mode": "retract"})
    try:
        await server.post("/flush_cache", {})  # it holds keys and values of the old weights
        body = {
            "model_path": str(files.folder),
            "weight_version": files.version,
            "flush_cache": True,
            "abort_all_requests": False,
        }
        reply = await server.post("/update_weights_from_disk", body, timeout_s)
        if not (isinstance(reply, dict) and reply.get("success") is True):
            raise ServerLostError(f"{server.url}/update_weights_from_disk: {str(reply)[:300]}")
        if await server.version() != files.version:
            raise SyncError(f"{server.url} does not have version {files.version!r} after a sync")
        after = await server.checksums()
    finally:
        await server.post("/continue_generation", {})
    if stale := _unmoved(before, after, files):
        raise SyncError(
            f"{server.url} took version {files.version!r} but kept the old weights of "
            f"{', '.join(stale[:4])}{' and others' if stale[4:] else ''}: check that it serves "
            "config.model.path"
        )


async def _held_before(server: Server, files: WeightFiles) -> list[dict[str, str]]:
    """Return the checksums of the weights that the server held before it was sent these files.

    They must not be read again on a retry. The server may already have loaded the files although
    its answer was lost, and would then return checksums of the new weights. A restarted server has
    neither the version before nor the files' version, and its checksums are read anew.
    """
    version, held = await server.version(), server.held_before
    if held is None or held.files != files.folder or version not in (held.version, files.version):
        held = server.held_before = Held(files.folder, version, await server.checksums())
    return held.checksums


def _unmoved(
    before: Sequence[Mapping[str, str]], after: Sequence[Mapping[str, str]], files: WeightFiles
) -> list[str]:
    """Return the tensors that changed in the files but on no rank of the server."""
    if files.before is None:
        return []
    same = [
        name
        for name in after[0]
        if all(old.get(name) == new.get(name) for old, new in zip(before, after, strict=True))
    ]
    if not same:
        return []
    old, new = _Reader(files.before), _Reader(files.folder)
    return [name for name in same if any(old.differs(new, part) for part in _parts(name))]


def _parts(name: str) -> list[str]:
    for fused, parts in _FUSED.items():
        if fused in name:
            return [name.replace(fused, part) for part in parts]
    return [name]


class _Reader:
    """Reads tensors by name from a folder of safetensors files."""

    def __init__(self, folder: Path) -> None:
        self._files: dict[str, Path] = {}
        for file in folder.glob("*.safetensors"):
            with safe_open(file, framework="numpy") as opened:
                self._files |= dict.fromkeys(opened.keys(), file)

    def differs(self, other: "_Reader", name: str) -> bool:
        """Return whether the two folders' tensors of this name differ.

        A name that is in neither folder does not differ.
        """
        if name not in self._files:
            return False
        mine, theirs = self._get(name), other._get(name)
        return not np.array_equal(mine.view(np.uint8), theirs.view(np.uint8))

    def _get(self, name: str) -> np.ndarray:
        with safe_open(self._files[name], framework="numpy") as opened:
            return opened.get_tensor(name)
