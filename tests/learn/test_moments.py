"""Low-precision moments: the errors that rounding may cause, and those that it must not cause."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from selfreg.policy.learn.collate import collate
from selfreg.policy.learn.learner import make_learner
from selfreg.policy.learn.moments import (
    BFLOAT16,
    INT8,
    STORAGE,
    UINT8,
    block_size,
    scale_by_adam,
)
from selfreg.policy.learn.optim import make_optimizer
from selfreg.policy.learn.train_step import LearnSettings, TrainState
from selfreg.policy.mesh import make_mesh
from selfreg.run.checkpoint import Checkpoints, restore
from selfreg.run.records import Checkpoint
from tests.learn.test_train_step import COLLATE, OPTIMIZER, PACKING, PARAMS, POLICY, make_groups

BATCH = collate(make_groups(), **COLLATE)


@cache
def learner(dtype):
    rule = make_optimizer(**OPTIMIZER | {"clip_norm": 1.0}, state_dtype=dtype)
    settings = LearnSettings("float32", 16, PACKING)
    return make_learner(POLICY, make_mesh(-1, 1, 1), rule, settings)


def train(made, state, updates):
    losses = []
    for _ in range(updates):
        state, metrics = made.update(state, BATCH, None, 1e-3, 0.0, 0.7)
        losses.append(float(metrics["loss"]))
    return state, losses


def equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize(
    ("storage", "spacing"),
    [(BFLOAT16, 2**-7), (INT8, 2 ** (1 / 12) - 1), (UINT8, 2 ** (1 / 12) - 1)],
    ids=["bfloat16", "int8", "uint8"],
)
def test_rounding_is_to_a_neighbour_and_right_in_the_mean(storage, spacing):
    generator = np.random.default_rng(0)
    x = jnp.asarray(generator.uniform(-1, 1, (4, 256)) * 2.0 ** generator.integers(-5, 5, (4, 1)))
    x = jnp.abs(x) if storage is UINT8 else x
    draws = 600
    bits = jnp.asarray(generator.integers(0, 2**16, (draws, *x.shape)), jnp.uint32)
    back = jax.vmap(lambda random: storage.decode(storage.encode(x, random)))(bits)
    inside = jnp.abs(x) > jnp.abs(x).max(axis=1, keepdims=True) / 500  # above the lowest codes
    error = jnp.where(inside, back / x - 1, 0.0)
    assert 0.1 * spacing < jnp.abs(error).max() < 1.001 * spacing
    # The tolerance is five standard deviations of a mean of `draws` errors within one spacing.
    assert jnp.abs(error.mean(axis=0)).max() < 5 * spacing / 2 / draws**0.5


def test_a_second_moment_above_zero_never_rounds_to_zero():
    x = jnp.array([[1.0, 1e-12, 0.0, 1e-30] * 4])
    back = UINT8.decode(UINT8.encode(x, jnp.zeros(x.shape, jnp.uint32)))
    np.testing.assert_array_equal(back > 0, x > 0)
    assert INT8.decode(INT8.encode(-x, jnp.zeros(x.shape, jnp.uint32)))[0, 0] == -1.0


@pytest.mark.parametrize("dtype", STORAGE)
def test_moments_begin_as_zero_is_coded(dtype):
    weights = {"a": jnp.ones((3, 48)), "b": jnp.ones((2, 8, 24), jnp.bfloat16)}
    state = scale_by_adam(0.9, 0.999, 1e-8, dtype).init(weights)
    for storage, moment in zip(STORAGE[dtype], (state.mu, state.nu), strict=True):
        for name, weight in weights.items():
            coded = storage.encode(
                jnp.zeros(weight.shape), jnp.full(weight.shape, 2**16 - 1, jnp.uint32)
            )
            jax.tree.map(np.testing.assert_array_equal, moment[name], coded)
            assert jax.tree.map(lambda m: m.dtype, moment[name]) == jax.tree.map(
                lambda m: m.dtype, coded
            )


def test_one_outlier_spoils_its_own_block_only():
    x = jnp.where(jnp.arange(256) == 3, 1e6, 1.0)[None]
    back = INT8.decode(INT8.encode(x, jnp.full(x.shape, 2**16 - 1, jnp.uint32)))  # rounds down
    block = block_size(256)
    assert np.all(back[0, block:] == 1.0)
    assert back[0, 3] == 1e6
    assert np.all(back[0, 4:block] == 0)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_moments_follow_slow_changes(dtype):
    # A gradient that falls from 1 to 1/2 changes the second moment by less than a thousandth of
    # itself per step. The first element of each block stays the same, so that scales do not fall.
    shape, steps, b2 = (16, 256), 3000, 0.999
    first = (jnp.arange(shape[1]) % block_size(shape[1]) == 0) & jnp.ones(shape, bool)
    second = STORAGE[dtype][1]

    def run(rule, decode):
        def body(i, state):
            g = jnp.where(first, 2.0, jnp.where(i < 1000, 1.0, 0.5)) * jnp.ones(shape)
            return rule.update(g, state)[1]

        state = jax.jit(lambda: jax.lax.fori_loop(0, steps, body, rule.init(jnp.zeros(shape))))()
        return np.asarray(decode(state.nu))[~first]

    exact = run(optax.scale_by_adam(b2=b2), lambda nu: nu)
    kept = run(scale_by_adam(0.9, b2, 1e-8, dtype), second.decode)
    np.testing.assert_allclose(kept.mean(), exact.mean(), rtol=0.01)
    assert kept.std() < 0.25 * exact.mean()  # 1 / 12 of an octave, over a thousand steps

    def nearest(i, nu):  # the failure that stochastic rounding prevents
        g = jnp.where(i < 1000, 1.0, 0.5)
        return (b2 * nu.astype(jnp.float32) + (1 - b2) * g * g).astype(jnp.bfloat16)

    stuck = jax.lax.fori_loop(0, steps, nearest, jnp.bfloat16(0.63))
    assert stuck == jnp.bfloat16(0.63)


@pytest.mark.parametrize(("dtype", "distance"), [("bfloat16", 0.006), ("int8", 0.06)])
def test_a_policy_learns_as_with_float32_moments(dtype, distance):
    ends, losses = {}, {}
    for each in ("float32", dtype):
        made = learner(each)
        state, losses[each] = train(made, made.init(PARAMS), 20)
        ends[each] = state.params
    size = optax.tree.norm
    apart = size(optax.tree.sub(ends[dtype], ends["float32"]))
    assert 0 < apart < distance * size(optax.tree.sub(ends["float32"], PARAMS))
    fallen = losses["float32"][0] - losses["float32"][-1]
    assert fallen > 0.5
    assert abs(losses[dtype][-1] - losses["float32"][-1]) < 0.02 * fallen


@pytest.mark.parametrize(
    ("dtype", "most"), [("float32", 8.001), ("bfloat16", 4.001), ("int8", 2.12)]
)
def test_bytes_a_weight(dtype, most):
    # The shapes of Qwen2.5-7B's matrices.
    shapes = {"q": (28, 3584, 3584), "k": (28, 512, 3584), "up": (28, 18944, 3584),
              "down": (28, 3584, 18944)}  # fmt: skip
    weights = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    state = jax.eval_shape(scale_by_adam(0.9, 0.999, 1e-8, dtype).init, weights)
    held = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    assert most - 0.13 < held / sum(leaf.size for leaf in weights.values()) < most


@pytest.mark.parametrize("axis", [576, 896, 2048, 3584, 4864, 11008, 18944, 152064])
def test_shards_are_cut_between_blocks(axis):
    block = block_size(axis)
    assert 64 < block <= 128
    assert all(axis // shards % block == 0 for shards in (2, 4, 8))


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_a_restored_state_goes_on_as_if_never_stopped(dtype, tmp_path):
    made = learner(dtype)
    state, _ = train(made, made.init(PARAMS), 2)
    checkpoints = Checkpoints(tmp_path, 0)
    checkpoints.save(2, state._asdict())
    checkpoints.close()
    like = made.like._asdict()
    back = TrainState(**restore(tmp_path, Checkpoint(0, 2), like))
    equal(back, state)
    whole, _ = train(made, state, 2)
    equal(train(made, back, 2)[0], whole)
