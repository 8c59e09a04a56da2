import os
import tempfile
from pathlib import Path

import jax
import pytest

# What one test has compiled the others read, in whatever process: compiling is most of their time.
CACHE = {
    "JAX_COMPILATION_CACHE_DIR": str(
        Path(tempfile.gettempdir()) / f"selfreg-xla-{os.environ.get('PYTEST_XDIST_TESTRUNUID', 0)}"
    ),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
}
os.environ.update(CACHE)  # for processes that tests start; this one has read its own already
jax.config.update("jax_compilation_cache_dir", CACHE["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)

# Modules whose tests share what takes minutes: each in one worker.
SHARED = ("test_resume", "test_distributed", "test_mesh", "test_lineage", "test_sglang_real")
LONG = (*SHARED, "test_chain", "test_launch", "test_notebooks")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark a group's tests now: xdist reads the marks before it lets others change the list."""
    if item.path.stem in SHARED:
        item.add_marker(pytest.mark.xdist_group(item.path.stem))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long things first, so that no worker ends alone with one."""
    items.sort(key=lambda item: item.path.stem not in LONG)


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
