import os

import pytest


@pytest.fixture
def eight_devices() -> dict[str, str]:
    """The environment of a process in which jax sees eight devices."""
    # Devices that meet in a collective hold a thread each, and jax 0.11 lets one device wait in two
    # at once: with XLA's own eight threads they can wait for each other for ever. On a busy machine
    # they are merely late, and XLA would kill the process after 40 s.
    flags = (
        "--xla_force_host_platform_device_count=8",
        "--xla_cpu_collective_call_terminate_timeout_seconds=300",
    )
    return os.environ | {"XLA_FLAGS": " ".join(flags), "NPROC": "32"}
