"""LoRA: it starts exactly as the base, learns like merged weights, and changes nothing else."""

import json
import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from selfreg.policy.learn.collate import collate
from selfreg.policy.learn.learner import make_learner
from selfreg.policy.learn.optim import make_optimizer
from selfreg.policy.learn.train_step import LearnSettings
from selfreg.policy.learn.weight_change import weight_change
from selfreg.policy.mesh import make_mesh
from selfreg.policy.models.adapted import unmerged
from selfreg.policy.models.hf import load_folder, save_folder
from selfreg.policy.models.lora import MATRICES, Lora, adapt, bind, random_adapters, trained_shapes
from selfreg.policy.models.policy import abstract_params
from selfreg.policy.rollout.decode import unstack
from selfreg.policy.rollout.jax_engine import _programs
from tests.learn.test_train_step import (
    COLLATE,
    OPTIMIZER,
    PACKING,
    PARAMS,
    POLICY,
    close,
    make_groups,
)

RANK, ALPHA = 4, 8.0
BATCH = collate(make_groups(), **COLLATE)
TOKENS, LENGTHS = jnp.arange(24).reshape(2, 12) + 2, jnp.array([12, 7])


def adapters(zero=False, seed=0):
    """Make adapters as at the start of training, or as training may leave them."""
    generator = np.random.default_rng(seed)
    made = random_adapters(POLICY, RANK, generator)
    if zero:
        return made
    return jax.tree.map(lambda a: 0.1 * generator.standard_normal(a.shape, np.float32), made)


def merge(base, own, alpha):
    """Merge all layers at once: W + (alpha / r) B A."""
    blocks = dict(base["blocks"])
    for name in MATRICES:
        a, b = own["blocks"][f"{name}_a"], own["blocks"][f"{name}_b"]
        added = alpha / RANK * jnp.einsum("lor,lri->loi", b, a, precision="highest")
        blocks[name] = (blocks[name].astype(jnp.float32) + added).astype(blocks[name].dtype)
    return base | {"blocks": blocks}


def whole(adapted):
    return merge(adapted.base, adapted.adapters, adapted.alpha)


def learner(dtype="float32", lora=True, mesh=None, **optimizer):
    rule = make_optimizer(**OPTIMIZER | optimizer)
    settings = LearnSettings(dtype, 16, PACKING)
    low = Lora(RANK, ALPHA, PARAMS) if lora else None
    return make_learner(POLICY, mesh or make_mesh(-1, 1, 1), rule, settings, low)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_training_starts_from_the_base_to_the_bit(dtype):
    low, full = learner(dtype), learner(dtype, lora=False)
    ours = low.logprobs(low.init(adapters(zero=True)).params, BATCH, 0.7)
    np.testing.assert_array_equal(ours, full.logprobs(full.init(PARAMS).params, BATCH, 0.7))


def test_adapters_compute_what_their_merged_weights_do():
    low = bind(adapt(POLICY, RANK, ALPHA), PARAMS)

    def hidden(policy):
        return jax.jit(lambda own: policy.decoder(own)(TOKENS, LENGTHS, jnp.dtype("float32"))[0])

    merged = jax.jit(partial(merge, alpha=ALPHA))(PARAMS, adapters())
    wanted, base = map(hidden(POLICY), (merged, PARAMS))
    np.testing.assert_allclose(hidden(low)(adapters()), wanted, atol=2e-4)
    assert jnp.abs(wanted - base).max() > 0.1
    # One matrix computed by hand.
    a, b = (adapters()["blocks"][name][2] for name in ("down_a", "down_b"))
    by_hand = PARAMS["blocks"]["down"][2] + ALPHA / RANK * b @ a
    np.testing.assert_allclose(merged["blocks"]["down"][2], by_hand, atol=1e-6)


def test_the_gradient_is_that_through_merged_weights():
    low = adapt(POLICY, RANK, ALPHA)

    def score(decoder):
        return jnp.sum(decoder(TOKENS, LENGTHS, jnp.dtype("float32")).hidden ** 3)

    @jax.jit
    @jax.grad
    def ours(own, base):
        return score(bind(low, base).decoder(own))

    @jax.jit
    @jax.grad
    def wanted(own, base):
        return score(POLICY.decoder(merge(base, own, ALPHA)))

    ours, wanted = (gradient(adapters(), PARAMS) for gradient in (ours, wanted))
    assert min(jnp.abs(leaf).max() for leaf in jax.tree.leaves(wanted)) > 0
    close(ours, wanted)


@pytest.fixture(scope="module")
def updated():
    """Make one update with 8-bit moments. Return weights before and after, state and metrics."""
    limit = jax.config.jax_captured_constants_warn_bytes
    jax.config.update("jax_captured_constants_warn_bytes", 10_000)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # compiling the base in as a constant would warn
            low = learner(state_dtype="int8")
            state = low.init(adapters())
            before = whole(low.merged(state.params))
            state, metrics = low.update(state, BATCH, None, 1e-3, 0.0, 0.7)
    finally:
        jax.config.update("jax_captured_constants_warn_bytes", limit)
    return before, whole(low.merged(state.params)), state, metrics


def test_an_update_moves_what_has_adapters_and_nothing_else(updated):
    before, after, state, _ = updated
    jax.tree.map(np.testing.assert_allclose, before, merge(PARAMS, adapters(), ALPHA))
    for name, weight in (after | after["blocks"]).items():
        if name != "blocks":
            old = (before | before["blocks"])[name]
            matrix = name in ("q", "k", "v", "o", "gate", "up", "down")
            assert bool(jnp.any(weight != old)) == matrix
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), state.params)
    assert shapes == trained_shapes(POLICY, RANK)


def test_the_base_is_kept_in_the_type_that_layers_compute_in():
    merged = whole(learner("bfloat16").merged(adapters()))
    types = {n: str(w.dtype) for n, w in (merged | merged["blocks"]).items() if n != "blocks"}
    assert {n for n, t in types.items() if t == "float32"} == {n for n in types if "norm" in n}
    assert set(types.values()) == {"float32", "bfloat16"}


def test_weight_change_is_that_of_the_merged_weights():
    step = jax.tree.map(lambda a: 1e-3 * a, adapters(seed=1))
    old, new = adapters(), optax.tree.add(adapters(), step)
    got = weight_change(bind(adapt(POLICY, RANK, ALPHA), PARAMS), old, step, new)
    before, after = (merge(PARAMS, each, ALPHA) for each in (old, new))
    wanted = weight_change(POLICY, before, optax.tree.sub(after, before), after)
    assert 0 < wanted["bf16_changed_fraction"] < 1
    for name, value in wanted.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-3)


def test_a_rank_above_a_matrix_is_refused():
    with pytest.raises(ValueError, match=r"config.model.lora_rank=65 .* k: set at most 64"):
        adapt(POLICY, 65, 1.0)


def test_full_weights_are_handed_on_as_they_are():
    assert learner(lora=False).merged(PARAMS) is PARAMS
    assert unmerged(PARAMS) == (PARAMS, 0.0)
    assert trained_shapes(POLICY, 0) == abstract_params(POLICY)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_engine_and_an_export_merge_layer_by_layer(dtype, tmp_path):
    adapted = learner(dtype).merged(adapters())
    cast = partial(unstack, POLICY, dtype=jnp.dtype(dtype))
    jax.tree.map(np.testing.assert_array_equal, cast(adapted), cast(whole(adapted)))
    folders = tmp_path / "adapted", tmp_path / "whole"
    for folder, params in zip(folders, (adapted, whole(adapted)), strict=True):
        save_folder(folder, POLICY.config, params, POLICY.tokenizer, dtype=dtype)
    jax.tree.map(np.testing.assert_array_equal, *(load_folder(folder)[1] for folder in folders))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_engine_never_holds_all_merged_layers_beside_its_own(dtype):
    shapes = jax.eval_shape(lambda: learner(dtype).merged(adapters()))
    made = _programs(POLICY, make_mesh(-1, 1, 1), dtype).unstack.lower(shapes).compile()
    memory = made.memory_analysis()
    assert memory.temp_size_in_bytes < memory.output_size_in_bytes / 4


def test_a_cpus_update_converts_a_layer_at_a_time():
    lowered = learner("bfloat16").lower(BATCH)
    (update,) = (lower() for name, lower in lowered.items() if name in ("update", "gradient"))
    whole = sum(PARAMS["blocks"][name].nbytes for name in MATRICES)

    def beside(**options):
        return update.compile(**options).memory_analysis().temp_size_in_bytes

    # By default, XLA would hold all of them in float32.
    left = beside(compiler_options={"xla_disable_hlo_passes": ""})
    assert beside() < left - whole / 2


MESHES = """
    import json
    import numpy as np
    from tests.models import test_lora as t
    from selfreg.policy.mesh import make_mesh
    made = t.learner(mesh=make_mesh(2, 2, 2), state_dtype="int8")
    state, metrics = made.update(made.init(t.adapters()), t.BATCH, None, 1e-3, 0.0, 0.7)
    kept = made.merged(state.params).base["blocks"]["gate"]
    adam = next(m for m in state.moments if hasattr(m, "nu")).nu["blocks"]
    parts = [kept, state.params["blocks"]["gate_a"], *adam["gate_a"], *adam["gate_b"]]
    print(json.dumps([*t.numbers(state, metrics),
                      *[p.addressable_shards[0].data.size / p.size for p in parts]]))
"""


def numbers(state, metrics):
    total = float(sum(np.abs(np.asarray(p)).sum() for p in jax.tree.leaves(state.params)))
    names = ("loss", "grad_norm", "update_to_weight_ratio")
    return [total, *(float(metrics[name]) for name in names)]


def test_adapters_and_their_8_bit_moments_split_with_their_matrices(updated, on_eight_devices):
    split = json.loads(on_eight_devices(MESHES))
    np.testing.assert_allclose(split[:4], numbers(*updated[2:]), rtol=1e-3)
    # gate is [ffn, embed], split over fsdp and tensor. A is split along the width and B along the
    # FFN, and the moments' scales like them.
    assert split[4:] == [1 / 4, 1 / 2, 1 / 2, 1 / 2, 1 / 2, 1 / 2]
