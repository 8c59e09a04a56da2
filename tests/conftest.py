import gc
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).parent.parent
# With the default thresholds, garbage collection over large libraries and programs would take a
# fifteenth of a worker's time.
gc.set_threshold(100_000, 20, 100)

# Tests share compiled programs across processes, because compiling takes most of their time.
# Workers and subprocesses read the folder from the environment. This process has already read its
# own, so set it in jax.config too.
CACHE_KEY = "JAX_COMPILATION_CACHE_DIR"
IS_FIRST = CACHE_KEY not in os.environ
if IS_FIRST:
    os.environ[CACHE_KEY] = tempfile.mkdtemp(prefix="selfreg-xla-")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
jax.config.update("jax_compilation_cache_dir", os.environ[CACHE_KEY])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
# Compiling still takes most of the time, so skip optimizations that pay off only in long runs.
QUICK_COMPILING = " ".join([
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_parallel_codegen_split_count=1",
    *(["--xla_cpu_use_fusion_emitters=false"] if jax.__version_info__ < (0, 11) else []),
])  # fmt: skip
os.environ["XLA_FLAGS"] = QUICK_COMPILING
# One thread for each worker of `make test`. More threads would mostly spin while they wait.
os.environ["NPROC"] = "1"


def pytest_collection_finish() -> None:
    """Exclude imported modules from garbage collection."""
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Remove the cache."""
    if IS_FIRST:
        shutil.rmtree(os.environ[CACHE_KEY], ignore_errors=True)


# Files that take minutes. One worker runs all tests of a file (make test), so that shared fixtures
# are made once.
LONG = (
    "test_resume", "test_distributed", "test_mesh", "test_lineage", "test_sglang_real",
    "test_chain", "test_launch", "test_notebooks", "test_attacks", "test_restore",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run long files first, so that no worker is left with one at the end."""
    items.sort(key=lambda item: item.path.stem not in LONG)


@pytest.fixture(scope="session")
def eight_devices() -> dict[str, str]:
    """The environment of a process in which JAX sees eight devices."""
    # Each device in a collective holds a thread. With jax 0.11 a device can wait in two collectives
    # at once, so XLA's default of eight threads can deadlock. NPROC=32 prevents that. On a busy
    # machine devices are only late, but by default XLA would kill the process after 40 s.
    flags = (
        "--xla_force_host_platform_device_count=8",
        "--xla_cpu_collective_call_terminate_timeout_seconds=300",
        QUICK_COMPILING,
    )
    return os.environ | {"XLA_FLAGS": " ".join(flags), "NPROC": "32"}


@pytest.fixture(scope="session")
def on_eight_devices(eight_devices: dict[str, str]) -> Callable[..., str]:
    """Run a program in a process in which JAX sees eight devices, and return what it prints."""

    def run(program: str, *arguments: object, **environment: str) -> str:
        command = [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)]
        done = subprocess.run(
            command, env=eight_devices | environment, cwd=ROOT, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr[-3000:]
        return done.stdout

    return run
