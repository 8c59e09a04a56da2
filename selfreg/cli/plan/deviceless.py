"""GPUs that are not there: devices to lower and compile for, and what of JAX is private about it.

JAX's CUDA plugin compiles without a GPU for a described one (jax.experimental.topologies). It needs
the plugin and NVIDIA's compiler, which the extra `gpu-compile` brings, and JAX_PLATFORMS=cpu.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from importlib.util import find_spec
from typing import Any

import jax
from jax.experimental import topologies

from selfreg.cli.plan.targets import TARGETS, describe

PLUGINS = ("jax_plugins.xla_cuda12", "jax_plugins.xla_cuda13")
# Where no package says them: what the plugin was seen to compile with.
CUDA, CUDNN = (12, 9), (9, 28)


def described_devices(kind: str, count: int) -> list[Any]:
    """Devices of one host that jax can compile for, and do nothing else with.

    Args:
      kind: One of selfreg.cli.plan.targets.TARGETS.
      count: How many.

    Raises:
      ValueError: No such target, or no CUDA compiler is installed.
    """
    if kind not in TARGETS:
        raise ValueError(f"--compile knows {', '.join(TARGETS)}, not {kind}")
    if not any(_installed(plugin) for plugin in PLUGINS):
        raise ValueError(
            "--compile needs JAX's CUDA compiler (no GPU): pip install -e .[gpu-compile] in an "
            "environment of its own, or `make gpu-compile`"
        )
    cuda = _version("nvidia-cuda-nvcc-cu12") or CUDA
    text = describe(TARGETS[kind], cuda, _version("nvidia-cudnn-cu12") or CUDNN)
    topology = topologies.get_topology_desc(
        platform="cuda", target_config=text, topology=f"1x1x{count}"
    )
    return list(topology.devices)


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package around it
        return False


def _version(package: str) -> tuple[int, int] | None:
    try:
        major, minor, *_ = metadata.version(package).split(".")
    except metadata.PackageNotFoundError:
        return None
    return int(major), int(minor)


@contextmanager
def cudnn_asks(device: Any) -> Iterator[None]:
    """While a program is traced and lowered, JAX's cuDNN attention asks this device what it can.

    It asks the first local GPU for its compute capability, and the installed library for its
    version; without a GPU that refuses heads of more than 128, which cuDNN takes on a Hopper.
    """
    # Private: nothing public says for which device attention is traced.
    from jax._src.cudnn import fused_attention_stablehlo as attention

    own = tuple(int(part) for part in str(device.compute_capability).split("."))

    def at_least(wanted: str) -> bool:
        return own >= tuple(int(part) for part in wanted.split("."))

    def equal(wanted: str) -> bool:
        return own == tuple(int(part) for part in wanted.split("."))

    before = attention.check_compute_capability, attention.is_cuda_compute_capability_equal
    attention.check_compute_capability = at_least
    attention.is_cuda_compute_capability_equal = equal
    try:
        yield
    finally:
        attention.check_compute_capability, attention.is_cuda_compute_capability_equal = before
        jax.clear_caches()  # what was traced so must not serve a real device
