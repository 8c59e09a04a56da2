"""cuDNN's call against the plain path, run through XLA's implementation of the same function."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfreg.loop.stages import open_stages
from selfreg.policy.models.attention import attend, attend_fused, choose_attention, make_masks
from selfreg.run.config import default
from selfreg.run.validate import resolve

GPU = SimpleNamespace(platform="gpu", compute_capability="9.0")


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize(("queries", "keys"), [(16, 16), (11, 19)])
def test_the_fused_call_equals_the_plain_path(window, queries, keys):
    draw = np.random.default_rng(0).normal
    q, k, v = (
        jnp.asarray(draw(size=(3, length, heads, 8)), jnp.float32)
        for length, heads in ((queries, 4), (keys, 2), (keys, 2))
    )
    # The last `queries` keys are the queries' own. The keys before them are a prefix, whose length
    # differs by row.
    known = np.array([keys - queries, 1, 0])[:, None]
    places = np.arange(keys)[None] - (keys - queries)
    positions = np.arange(queries)[None] + known
    key_positions = np.where(places < 0, np.arange(keys), places + known)
    own = (places >= 0) & (places <= np.arange(queries)[:, None])
    full = own[None] | ((places < 0) & (np.arange(keys) < known))[:, None]
    masks = make_masks(jnp.asarray(full), positions, key_positions, window)

    def plain(q, k, v):
        return attend(q, k, v, masks.sliding, scale=0.3, kind="plain")

    def fused(q, k, v):
        return attend_fused(q, k, v, masks.sliding, scale=0.3, implementation="xla")

    cotangent = jnp.asarray(draw(size=(3, queries, 32)), jnp.float32)

    @jax.jit
    def values_and_gradients(q, k, v):
        pulled = (jax.vjp(path, q, k, v) for path in (plain, fused))
        return [(value, *pull(cotangent)) for value, pull in pulled]

    for a, b in zip(*values_and_gradients(q, k, v), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_window_counts_the_query_itself():
    steps = jnp.arange(6)[None]
    masks = make_masks(steps[:, :, None] >= steps[:, None], steps, steps, 2)
    assert np.flatnonzero(masks.sliding[0, 4]).tolist() == [3, 4]
    assert np.flatnonzero(masks.full[0, 4]).tolist() == [0, 1, 2, 3, 4]


def test_auto_takes_cudnn_only_where_it_can_run():
    assert choose_attention("auto", "bfloat16", 64) == "plain"
    assert choose_attention("auto", "bfloat16", 256, GPU) == "cudnn"
    assert choose_attention("plain", "bfloat16", 256, GPU) == "plain"
    assert choose_attention("auto", "float32", 64, GPU) == "plain"
    ampere = SimpleNamespace(platform="gpu", compute_capability="8.0")
    assert choose_attention("auto", "bfloat16", 256, ampere) == "plain"
    assert choose_attention("auto", "bfloat16", 128, ampere) == "cudnn"


@pytest.mark.parametrize(
    ("dtype", "head_dim", "device", "words"),
    [
        ("bfloat16", 64, None, "needs an NVIDIA GPU, but JAX runs on cpu"),
        ("bfloat16", 64, SimpleNamespace(platform="gpu", compute_capability="gfx90a"), "NVIDIA"),
        ("bfloat16", 64, SimpleNamespace(platform="gpu", compute_capability="7.5"), "is 7.5"),
        ("float32", 64, GPU, "config.model.dtype=bfloat16, but it is float32"),
        ("bfloat16", 264, GPU, "head_dim .* is 264"),
        ("bfloat16", 60, GPU, "head_dim .* is 60"),
    ],
)
def test_cudnn_is_refused_where_it_cannot_run(dtype, head_dim, device, words):
    with pytest.raises(ValueError, match=f"model.attention='cudnn'.*{words}"):
        choose_attention("cudnn", dtype, head_dim, device)


def test_a_run_that_asks_for_cudnn_on_a_cpu_is_refused_before_anything_is_written(tmp_path):
    config = default()
    config.model.attention = "cudnn"
    with (
        pytest.raises(ValueError, match="needs an NVIDIA GPU"),
        open_stages(resolve(config), tmp_path / "run"),
    ):
        pass
    assert not (tmp_path / "run").exists()
