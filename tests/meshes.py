"""Updates and decoding on every mesh of up to eight simulated devices, described as JSON."""

import json
import re
from functools import cache
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from selfreg.algorithms.parts.batch import Batch
from selfreg.policy.learn.learner import Learner, make_learner
from selfreg.policy.learn.optim import make_optimizer
from selfreg.policy.learn.packing import Packing, pack
from selfreg.policy.learn.train_step import LearnSettings
from selfreg.policy.mesh import make_mesh, split_rows
from selfreg.policy.models.decoder import DecoderConfig
from selfreg.policy.models.policy import (
    Policy,
    abstract_params,
    load_policy,
    make_policy,
    random_params,
)
from selfreg.policy.rollout.jax_engine import JaxEngine
from selfreg.run.records import Sampling

SIZES = {
    "vocab_size": 512, "width": 32, "layers": 3, "heads": 8, "head_dim": 8, "ffn_width": 48,
    "rope_theta": 1e4, "norm_eps": 1e-6,
}  # fmt: skip
# The first has few key-value heads, biases and a tied head, and the second has none of these.
SHAPES = {
    "tied": DecoderConfig(**SIZES, kv_heads=2, qkv_bias=True, tied_head=True),
    "untied": DecoderConfig(**SIZES, kv_heads=8, qkv_bias=False, tied_head=False),
}
ROWS, PROMPT, TOKENS = 16, 5, 7
PACKING = Packing((TOKENS,), ROWS)
TOKENIZER = load_policy("tiny")[0].tokenizer
POLICIES = {name: make_policy(config, TOKENIZER) for name, config in SHAPES.items()}
PARAMS = {name: random_params(config, seed=0) for name, config in SHAPES.items()}
FACTORS = [(d, f, t) for d in (1, 2, 4, 8) for f in (1, 2, 4, 8) for t in (1, 2, 4, 8)]
MESHES = [shape for shape in FACTORS if np.prod(shape) <= 8]
KINDS = {"data": (8, 1, 1), "fsdp": (1, 8, 1), "tensor": (1, 1, 8), "mixed": (2, 2, 2)}


def mesh_of(shape: tuple[int, ...]) -> Mesh:
    return make_mesh(*shape, devices=jax.devices()[: np.prod(shape)])


def make_batch() -> Batch:
    random = np.random.default_rng(0)
    ids = random.integers(0, SIZES["vocab_size"], (ROWS, PROMPT + TOKENS)).astype(np.int32)
    lengths = random.integers(2, TOKENS + 1, ROWS)
    mask = (np.arange(TOKENS) < lengths[:, None]).astype(np.float32)
    return Batch(
        prompt_ids=ids[:, :PROMPT],
        prompt_lengths=random.integers(1, PROMPT + 1, ROWS).astype(np.int32),
        completion_ids=ids[:, PROMPT:],
        completion_mask=mask,
        logprobs=-random.random((ROWS, TOKENS)).astype(np.float32) * mask,
        advantages=random.standard_normal(ROWS).astype(np.float32),
        token_weights=mask / mask.sum(),
        slots=pack(lengths[:, None], TOKENS, PACKING),
    )


def learner(
    policy: Policy, shape: tuple[int, ...], dtype: str = "float32", packing: Packing = PACKING
) -> Learner:
    # With b1 = 0.5, the first moment after one step is half the gradient.
    rule = make_optimizer(b1=0.5, b2=0.999, eps=1e-8, weight_decay=0.0, clip_norm=0.0)
    settings = LearnSettings(dtype, 32, packing)
    return make_learner(policy, mesh_of(shape), rule, settings)


@cache
def step(name: str, shape: tuple[int, ...], dtype: str = "float32") -> dict[str, Any]:
    """Return the loss and gradient of an update, and the bytes that each device holds."""
    made = learner(POLICIES[name], shape, dtype)
    before = made.init(PARAMS[name])
    state, metrics = made.update(before, make_batch(), None, 1e-3, 0.0, 0.7)
    moments = next(m for m in state.moments if hasattr(m, "mu"))
    return {
        "loss": float(metrics["loss"]),
        "gradient": jax.tree.map(lambda m: 2 * np.asarray(m), moments.mu),
        "bytes": {n: bytes_a_device(t) for n, t in state._asdict().items() if jax.tree.leaves(t)},
        "shares": {
            jax.tree_util.keystr(path): leaf.addressable_shards[0].data.size / leaf.size
            for path, leaf in jax.tree_util.tree_leaves_with_path(state.params)
        },
        "donated": all(leaf.is_deleted() for leaf in jax.tree.leaves(before)),
    }


def bytes_a_device(tree: Any) -> int:
    return max(
        sum(leaf.addressable_shards[i].data.nbytes for leaf in jax.tree.leaves(tree))
        for i in range(len(jax.tree.leaves(tree)[0].addressable_shards))
    )


def difference(a: dict[str, Any], b: dict[str, Any]) -> float:
    """Return the largest difference of two gradients, relative to each weight's largest value."""
    pairs = zip(jax.tree.leaves(a["gradient"]), jax.tree.leaves(b["gradient"]), strict=True)
    return max(float(np.abs(x - y).max() / np.abs(y).max()) for x, y in pairs)


def compare(name: str, shapes: list[tuple[int, ...]], dtype: str = "float32") -> list[Any]:
    """Compare every mesh with a single device in float32."""
    alone = step(name, (1, 1, 1))
    rows = []
    for shape in shapes:
        got = step(name, shape, dtype)
        found = {"shape": shape, "gradient_error": difference(got, alone)}
        found["loss_error"] = abs(got["loss"] - alone["loss"]) / abs(alone["loss"])
        rows.append(found | {n: got[n] for n in ("bytes", "shares", "donated")})
    return rows


COLLECTIVE = re.compile(
    r"= (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
)


def collectives(compiled: jax.stages.Compiled) -> list[tuple[str, bool, list[int]]]:
    """Return each array that a collective makes: operation, whether it is in a loop, and shape."""
    found, in_loop = [], True
    for line in compiled.as_text().splitlines():
        if line.endswith("{") and not line.startswith(" "):
            in_loop = not line.startswith("ENTRY")
        if match := COLLECTIVE.search(line):
            shapes = re.findall(r"\w+\[([\d,]*)\]", match[1])
            found += [(match[2], in_loop, [int(n) for n in s.split(",") if n]) for s in shapes]
    return found


def compiled_update(
    name: str, shape: tuple[int, ...], packing: Packing = PACKING
) -> dict[str, Any]:
    """Return facts about XLA's program of an update."""
    made = learner(POLICIES[name], shape, packing=packing)
    compiled = made.lower(make_batch())["update"]().compile()
    memory = compiled.memory_analysis()
    whole = jax.tree.leaves(made.like)
    return {
        "collectives": collectives(compiled),
        "alias_bytes": memory.alias_size_in_bytes,
        "state_bytes": sum(
            int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize
            for leaf in whole
        ),
    }


def compiled_decoding(name: str, shape: tuple[int, ...]) -> dict[str, Any]:
    """Return facts about XLA's programs of the engine."""
    engine = JaxEngine(POLICIES[name], mesh_of(shape), dtype="float32", max_sequences=64)
    params = learner(POLICIES[name], shape).init(PARAMS[name]).params
    engine.load_params(params)
    sampling = Sampling(0.7, 1.0, 0, 16)
    prompts, lengths = np.zeros((16, 32), np.int32), np.ones(16, np.int32)
    turn = engine._begin(prompts, lengths, np.zeros(64, np.uint32), 64, sampling)
    rows, packed = turn.rows, engine._packed(turn, np.zeros(0, int)).rows
    kept = np.zeros((split_rows(engine._mesh, 32), 32 // split_rows(engine._mesh, 32)), int)
    segment = engine._programs.segment.lower(
        engine._weights, rows, np.int32(0), np.int32(16), sampling=sampling
    )
    return {
        "load": collectives(engine._programs.unstack.lower(params).compile()),
        "segment": collectives(segment.compile()),
        "pack": collectives(engine._programs.pack.lower(rows, kept, lane=packed.lane).compile()),
        "cache_shares": [
            cache.addressable_shards[0].data.size / cache.size
            for state in (rows, packed)
            for cache in (*state.prompts[0], *state.caches[0])
        ],
    }


def temporary_bytes() -> dict[str, int]:
    """Return an update's temporary bytes, for a model whose gradients are most of them."""
    config = DecoderConfig(
        **SIZES | {"width": 256, "ffn_width": 512}, kv_heads=8, qkv_bias=False, tied_head=False
    )
    policy, found = make_policy(config, TOKENIZER), {}
    for kind in ("data", "fsdp"):
        lowered = learner(policy, KINDS[kind]).lower(make_batch())["update"]()
        found[kind] = lowered.compile().memory_analysis().temp_size_in_bytes
    weights = jax.tree.leaves(abstract_params(policy))
    return found | {"parameters": sum(leaf.size for leaf in weights)}


def show() -> None:
    kinds = list(KINDS.values())
    print(json.dumps({
        "tied": compare("tied", MESHES),
        "untied": compare("untied", kinds),
        "bfloat16": compare("tied", [(1, 1, 1), (2, 2, 2)], "bfloat16"),
        "update": {kind: compiled_update("untied", shape) for kind, shape in KINDS.items()},
        "microbatches": {
            name: compiled_update(name, KINDS["data"], Packing((TOKENS,), 8)) for name in SHAPES
        },
        "decoding": {kind: compiled_decoding("untied", shape) for kind, shape in KINDS.items()},
        "temporary": temporary_bytes(),
    }))  # fmt: skip
