"""XLA's compilation cache on disk, and a count of compilations.

The count exposes a program that recompiles in a loop, which can cost hours.
"""

import os
from functools import cache
from pathlib import Path
from typing import Any

import jax

# Of XLA's orders of a CPU's operations the one that needs least memory.
LEAST_MEMORY_ON_CPU: Any = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
# A CPU multiplies in float32. XLA would convert the bfloat16 weights of all layers at once, in
# front of the loop that reads them.
CONVERT_IN_LOOPS: Any = {"xla_disable_hlo_passes": "while-loop-invariant-code-motion"}
_compiled = 0


def set_up() -> None:
    """Keep compiled programs between runs, and start counting compilations.

    The cache is in $XDG_CACHE_HOME/selfreg/xla. It holds programs that took at least 0.5 seconds to
    compile. JAX's own environment variables, such as $JAX_COMPILATION_CACHE_DIR, take precedence.
    """
    cache_home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    ours = {
        "jax_compilation_cache_dir": str(cache_home / "selfreg" / "xla"),
        "jax_persistent_cache_min_compile_time_secs": 0.5,
    }
    for name, value in ours.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)
    _start_counting()


@cache  # a second listener would count every program twice
def _start_counting() -> None:
    jax.monitoring.register_event_duration_secs_listener(_count)


def compile_count() -> int:
    """Return how many programs this process compiled or read from the cache since `set_up`."""
    return _compiled


def _count(event: str, duration_secs: float, **_: str | int) -> None:
    global _compiled
    _compiled += event == "/jax/core/compile/backend_compile_duration"
