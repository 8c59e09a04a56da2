"""Describe absent GPUs, so that programs can be lowered and compiled for them.

JAX's CUDA plugin can compile for a described GPU without a real one (jax.experimental.topologies).
This needs the plugin and NVIDIA's compiler, which the extra `gpu-compile` installs, and
JAX_PLATFORMS=cpu. The private parts of JAX that the planner needs are used only here.
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
# Used if no installed package states the versions. The plugin has compiled with these.
CUDA, CUDNN = (12, 9), (9, 28)


def described_devices(kind: str, count: int) -> list[Any]:
    """Return described devices of one host. jax can compile for them, but not run on them.

    Args:
      kind: One of selfreg.cli.plan.targets.TARGETS.
      count: The number of devices.

    Raises:
      ValueError: The kind is unknown, or no CUDA compiler is installed.
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
    except ModuleNotFoundError:  # the parent package is missing too
        return False


def _version(package: str) -> tuple[int, int] | None:
    try:
        major, minor, *_ = metadata.version(package).split(".")
    except metadata.PackageNotFoundError:
        return None
    return int(major), int(minor)


@contextmanager
def cudnn_asks(device: Any) -> Iterator[None]:
    """Make JAX's cuDNN attention check this device's compute capability within the context.

    By itself, JAX checks the first local GPU and the installed cuDNN library. Without a GPU, that
    check refuses heads of more than 128 elements, although cuDNN takes them on a Hopper.
    """
    # The module is private, but no public name tells JAX for which device attention is traced.
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
        jax.clear_caches()  # a real device must not reuse these traces
