"""Gradients accumulated in place: the same numbers as autodiff's, in one array."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfreg.policy.models.policy import load_policy, make_policy, random_params
from selfreg.policy.models.presets import shape_of
from selfreg.policy.models.sums import add_gradient

TOKENS, LENGTHS = jnp.arange(10).reshape(2, 5), jnp.array([5, 3])
F32 = jnp.dtype("float32")
LAYERS, WIDTH = 16, 256


@pytest.mark.parametrize("remat", ["none", "dots", "layer"])
def test_sums_grow_by_the_gradient_of_the_blocks(remat):
    policy = make_policy(shape_of("tiny"), load_policy("tiny")[0].tokenizer, remat=remat)
    params = random_params(policy.config, seed=0)

    def through(sums):
        states = policy.decoder(params)(TOKENS, LENGTHS, F32, sums)
        return jnp.sum(states.hidden**3), states.sums

    @jax.jit
    def grown(before):
        (value, _), back = jax.vjp(through, jax.tree.map(jnp.zeros_like, before))
        return back((jnp.ones_like(value), before))[0]

    def plain(params):
        return jnp.sum(policy.decoder(params)(TOKENS, LENGTHS, F32).hidden ** 3)

    before = jax.tree.map(lambda a: jnp.full_like(a, 0.5), params["blocks"])
    gradient = jax.jit(jax.grad(plain))(params)["blocks"]
    for after, own in zip(*map(jax.tree.leaves, (grown(before), gradient)), strict=True):
        np.testing.assert_allclose(after, 0.5 + own, rtol=1e-5, atol=2e-6 * np.abs(own).max())


def test_layers_add_to_one_array_in_place():
    stack = jax.ShapeDtypeStruct((LAYERS, WIDTH, WIDTH), F32)
    x = jax.ShapeDtypeStruct((4, WIDTH), F32)

    def forward(weights, sums, x):
        def layer(carry, this):
            x, sums = carry
            weight, sums = add_gradient(lambda tree: tree, this[0], sums, this[1])
            return (jnp.tanh(x @ weight), sums), None

        (x, sums), _ = jax.lax.scan(layer, (x, sums), (weights, jnp.arange(LAYERS)))
        return jnp.sum(x), sums

    def add(weights, sums, x):
        zero = jnp.zeros_like(sums)
        (value, _), back = jax.vjp(lambda zero: forward(weights, zero, x), zero)
        return back((jnp.ones_like(value), sums))[0]

    memory = jax.jit(add, donate_argnums=1).lower(stack, stack, x).compile().memory_analysis()
    assert memory.alias_size_in_bytes == memory.output_size_in_bytes
    assert memory.temp_size_in_bytes < 4 * LAYERS * WIDTH**2 / 4
