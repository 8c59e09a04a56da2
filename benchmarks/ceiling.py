"""Measured limits of a device's arithmetic and memory, with which other timings are compared."""

import time

import jax
import jax.numpy as jnp
import numpy as np

MATMUL_SIZE = 2048


def matmul_ceiling(dtype: str = "float32", size: int = MATMUL_SIZE) -> float:
    """Return the FLOP/s of a large square matrix product in JAX."""
    generator = np.random.default_rng(0)
    a = jnp.asarray(generator.normal(size=(size, size)), dtype)
    product = jax.jit(lambda a, b: a @ b.T)
    product(a, a).block_until_ready()
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        product(a, a).block_until_ready()
        times.append(time.perf_counter() - begun)
    return 2 * size**3 / min(times)


def read_bandwidth(dtype: str = "float32", size: int = 2**26) -> float:
    """Return the bytes per second that a sum over a large array reads."""
    array = jnp.ones(size, dtype)
    total = jax.jit(lambda a: jnp.sum(a, dtype=jnp.float32))
    total(array).block_until_ready()
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        total(array).block_until_ready()
        times.append(time.perf_counter() - begun)
    return array.nbytes / min(times)
