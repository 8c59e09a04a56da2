"""What a device's arithmetic and memory can give, measured: the floors that times stand beside."""

import time

import jax
import jax.numpy as jnp
import numpy as np

MATMUL_SIZE = 2048


def matmul_ceiling(dtype: str = "float32", size: int = MATMUL_SIZE) -> float:
    """FLOP/s of a large square product in jax: what this machine's arithmetic can give."""
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
    """Bytes a second that a sum over a large array reads."""
    array = jnp.ones(size, dtype)
    total = jax.jit(lambda a: jnp.sum(a, dtype=jnp.float32))
    total(array).block_until_ready()
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        total(array).block_until_ready()
        times.append(time.perf_counter() - begun)
    return array.nbytes / min(times)
