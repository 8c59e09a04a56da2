"""Lower every program of every config of the paper at full size, on its docstring's meshes.

Only shapes are used, and nothing is compiled. A failure here would otherwise appear in the first
update of a real run, after hours of loading.
"""

import importlib
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh

from selfreg.loop.stages import learner_of, packing_of, sampling_of
from selfreg.policy.learn.collate import empty_batch
from selfreg.policy.learn.packing import make_packing
from selfreg.policy.learn.weight_change import weight_change
from selfreg.policy.mesh import AXES, device_in_force, in_force, make_mesh
from selfreg.policy.models.attention import choose_attention
from selfreg.policy.models.block import linear, linear_of_few
from selfreg.policy.models.policy import abstract_params, count_parameters, load_policy, make_policy
from selfreg.policy.models.presets import shape_of
from selfreg.policy.rollout import decode
from selfreg.policy.rollout.jax_engine import JaxEngine
from selfreg.run.validate import resolve
from tests.test_waves import WAVES, config_of, load

# Meshes and keys to test besides a config's own. W17's docstring mentions LoRA on one H200. The 16
# devices are two hosts, as in docs/performance.md, with tensor parallelism within a host.
ONE = {"mesh.fsdp": 1}
MORE = {
    ("w17", "7b"): (
        ONE | {"model.lora_rank": 32},
        {"mesh.data": 2},
        {"mesh.fsdp": 4, "mesh.tensor": 2},
        ONE | {"optimizer.state_dtype": "int8"},
    ),
    ("w17", "3b"): (ONE | {"optimizer.state_dtype": "bfloat16"},),
}
PROGRAMS = {"update", "moments", "logprobs", "anchor", "unstack", "prefill", "segment", "pack"}


def full_size_configs():
    """Return each wave's resolved configs, and those of MORE."""
    for wave in WAVES:
        for chain in load(wave).sweep():
            yield f"{wave}:{chain.variant}", config_of(wave, chain)
    for (wave, variant), changed in MORE.items():
        for changes in changed:
            config = importlib.import_module(f"configs.{wave}").get_config(variant)
            config.update_from_flattened_dict(changes)
            yield f"{wave}:{variant} {changes}", config


def lower_all(config):
    """Lower every program of a run's learner and engine. Return their names and model size."""
    mesh_shape = config.mesh
    count = abs(mesh_shape.data * mesh_shape.fsdp * mesh_shape.tensor)
    mesh = make_mesh(**mesh_shape, devices=jax.devices()[:count])
    model, rollout = config.model, config.rollout
    policy = make_policy(
        shape_of(model.path), load_policy("tiny")[0].tokenizer,
        remat=model.remat, attention=model.attention,
    )  # fmt: skip
    packing = packing_of(config, mesh)
    learner = learner_of(config, policy, mesh, packing, base=None)
    batch = empty_batch(
        rollout.problems_per_step, rollout.group_size, rollout.max_prompt_tokens,
        rollout.max_new_tokens, packing,
    )  # fmt: skip
    engine = JaxEngine(policy, mesh, dtype=model.dtype, max_sequences=rollout.max_sequences)
    programs = learner.lower(batch, reference=True, anchored=True) | engine.lower(
        learner.merged(learner.like.params),
        config.problems.panel_count, config.evaluation.panel_samples,
        rollout.max_prompt_tokens, sampling_of(config),
    )  # fmt: skip
    return {
        "parameters": count_parameters(abstract_params(policy)),
        "programs": [name for name, lower in programs.items() if lower().out_info is not None],
    }


# Keys that no program depends on. Configs that differ only in these are lowered once.
def compiled_for(config):
    return json.dumps(
        [config.to_dict()[part] for part in ("model", "mesh", "rollout", "learn", "optimizer")],
        default=str, sort_keys=True,
    )  # fmt: skip


def show():
    """Lower all programs, and print the results."""
    seen, found = set(), {}
    for name, config in full_size_configs():
        resolved = resolve(config)
        if (key := compiled_for(resolved)) not in seen:
            seen.add(key)
            found[name] = lower_all(resolved)
    print(json.dumps(found))


@pytest.fixture(scope="module")
def lowered(on_eight_devices):
    sixteen = {"XLA_FLAGS": "--xla_force_host_platform_device_count=16"}
    return json.loads(
        on_eight_devices("from tests import test_lowering; test_lowering.show()", **sixteen)
    )


def test_every_program_of_every_config_is_lowered(lowered):
    for name, made in lowered.items():
        assert set(made["programs"]) == PROGRAMS, name
    sizes = {round(made["parameters"] / 1e9) for made in lowered.values()}
    assert sizes == {3, 4, 8, 33}


def test_what_a_program_contains_hangs_on_its_meshs_devices_alone():
    assert device_in_force() == jax.devices()[0]
    hopper = SimpleNamespace(platform="gpu", compute_capability="9.0")
    mesh = SimpleNamespace(devices=np.array([hopper]), abstract_mesh=AbstractMesh((1, 1, 1), AXES))
    with in_force(mesh):
        assert choose_attention("auto", "bfloat16", 128) == "cudnn"
        assert decode._linear() is linear
    assert choose_attention("auto", "bfloat16", 128) == "plain"
    assert decode._linear() is linear_of_few


def test_counts_above_what_float32_can_count_to_are_right():
    # Adding ones one by one in float32 stops at 2^24.
    old = {"blocks": {"up": jnp.ones((3, 2**11, 2**13), jnp.bfloat16)}}
    new = {"blocks": {"up": old["blocks"]["up"].at[0].set(2)}}
    found = jax.jit(weight_change, static_argnums=0)(None, old, old, new)
    assert float(found["bf16_changed_fraction"]) == pytest.approx(1 / 3, rel=1e-6)
    assert float(found["update_to_weight_ratio"]) == pytest.approx(1, rel=1e-6)


def test_more_tokens_than_slots_can_name_are_refused():
    assert make_packing((), 0, 2**16 - 1, 2**15, 1)
    with pytest.raises(ValueError, match=r"65536 completions of up to 65536 tokens are more than"):
        make_packing((), 0, 2**16, 2**16, 1)
