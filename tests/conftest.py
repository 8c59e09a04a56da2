import os

import jax
import pytest


@pytest.fixture(scope="session")
def eight_devices() -> dict[str, str]:
    """The environment of a process in which jax sees eight devices."""
    # Devices that meet in a collective hold a thread each, and jax 0.11 lets one device wait in two
    # at once: with XLA's own eight threads they can wait for each other for ever. On a busy machine
    # they are merely late, and XLA would kill the process after 40 s.
    flags = (
        "--xla_force_host_platform_device_count=8",
        "--xla_cpu_collective_call_terminate_timeout_seconds=300",
        # Compiling is nearly all that such a test does.
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
        *(["--xla_cpu_use_fusion_emitters=false"] if jax.__version_info__ < (0, 11) else []),
    )
    return os.environ | {"XLA_FLAGS": " ".join(flags), "NPROC": "32"}
