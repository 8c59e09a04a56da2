"""Every mesh gives one device's update, and moves only the data that it must."""

import json
import math

import pytest

from selfreg.policy.mesh import make_mesh

# Constants of the model whose compiled programs are examined. See meshes.py.
WIDTH, VOCABULARY, ROWS, TOKENS, LAYER = 32, 512, 16, 7, {(64, 32), (32, 64), (48, 32), (32, 48)}
# The keys or values of all prompts are whole on every device, because any row may use any prompt.
# Three layers of them are gathered once per update, and their gradients are summed layer by layer.
PROMPTS = (16, 5, 8, 8)


@pytest.fixture(scope="module")
def meshes(on_eight_devices):
    return json.loads(on_eight_devices("from tests import meshes; meshes.show()"))


def shapes(found, *operations, in_loop=None):
    """Return the shapes that these collectives made, without scalars and axes of size one."""
    made = [
        tuple(n for n in shape if n > 1)
        for operation, loop, shape in found
        if operation in operations and in_loop in (None, loop)
    ]
    return {shape for shape in made if shape}


def test_every_mesh_gives_the_loss_and_gradient_of_one_device(meshes):
    assert len({tuple(row["shape"]) for row in meshes["tied"]}) == 20  # all factors up to 8
    for row in (*meshes["tied"], *meshes["untied"]):
        assert row["loss_error"] < 1e-6, row["shape"]
        assert row["gradient_error"] < 2e-6, row["shape"]


def test_bfloat16_on_a_mesh_is_as_near_to_float32_as_on_one_device(meshes):
    alone, spread = meshes["bfloat16"]
    assert 1e-4 < alone["gradient_error"] < 0.03
    assert spread["gradient_error"] < 2 * alone["gradient_error"]


def test_weights_and_moments_are_split_over_fsdp_and_tensor(meshes):
    whole = meshes["tied"][0]["bytes"]
    for row in (*meshes["tied"], *meshes["untied"]):
        data, fsdp, tensor = row["shape"]
        for path, share in row["shares"].items():
            parts = fsdp * tensor
            if path.endswith(("norm']", "bias']")):
                parts = 1
            elif path.endswith(("'k']", "'v']")) and row in meshes["tied"] and tensor > 2:
                parts = fsdp  # there are two key-value heads, and no device holds part of one
            assert share == 1 / parts, (row["shape"], path)
        if row in meshes["tied"] and data * fsdp == 8:
            for name in ("params", "moments"):
                assert row["bytes"][name] < 1.2 * whole[name] / fsdp


def test_gradients_are_split_over_fsdp_too(meshes):
    # Nothing else that a device holds temporarily differs between the two meshes.
    saved = meshes["temporary"]["data"] - meshes["temporary"]["fsdp"]
    assert saved > 0.75 * 4 * meshes["temporary"]["parameters"]


def test_the_state_is_donated_whole(meshes):
    assert all(row["donated"] for row in (*meshes["tied"], *meshes["untied"]))
    for update in meshes["update"].values():
        assert update["alias_bytes"] == update["state_bytes"]


def test_data_parallel_updates_exchange_gradients_only(meshes):
    found = meshes["update"]["data"]["collectives"]
    assert {operation for operation, *_ in found} == {"all-reduce", "all-gather"}
    assert shapes(found, "all-gather") == {(3, *PROMPTS)}
    # A layer's gradient is summed as soon as it is computed, for prompts and for completions.
    vectors = {(WIDTH,)}
    assert shapes(found, "all-reduce", in_loop=True) == LAYER | vectors | {PROMPTS}
    assert shapes(found, "all-reduce", in_loop=False) == {(VOCABULARY, WIDTH)} | vectors
    tables = [shape for _, _, shape in found if shape == [VOCABULARY, WIDTH]]
    assert len(tables) == 3  # the embedding for prompts and for completions, and the head


def test_tables_gradients_are_exchanged_once_for_all_microbatches(meshes):
    # Use two microbatches. With one, XLA would move everything it can out of the loop.
    for name, tables in (("untied", 3), ("tied", 2)):
        found = meshes["microbatches"][name]["collectives"]
        where = [in_loop for _, in_loop, shape in found if VOCABULARY in shape]
        assert where == [False] * tables, name


def test_fsdp_gathers_one_layer_at_a_time(meshes):
    found = meshes["update"]["fsdp"]["collectives"]
    assert shapes(found, "all-gather", in_loop=True) == LAYER
    gathered = shapes(found, "all-gather", in_loop=False)
    assert (VOCABULARY, WIDTH) in gathered  # the head, gathered once
    # Everything else that is gathered is token ids. The exchanged data is embedded tokens.
    others = gathered - {(VOCABULARY, WIDTH), (3, *PROMPTS)}
    assert all(math.prod(s) <= ROWS * TOKENS for s in others)
    exchanged = shapes(found, "all-to-all", "collective-permute")
    assert all(math.prod(s) <= ROWS * TOKENS * WIDTH / 8 for s in exchanged)
    # XLA for the CPU has no reduce-scatter. It sums the whole, and each device keeps its part.
    reduced = shapes(found, "all-reduce", "reduce-scatter")
    assert reduced <= LAYER | {(WIDTH,), (VOCABULARY, WIDTH), PROMPTS}


def test_tensor_parallel_updates_sum_activations_only(meshes):
    found = meshes["update"]["tensor"]["collectives"]
    assert {operation for operation, *_ in found} == {"all-reduce"}
    # Sums of layers' outputs, and for each token the maximum, sum and target of the logits.
    for shape in shapes(found, "all-reduce"):
        assert shape[-1] == WIDTH or math.prod(shape) <= ROWS * TOKENS
        assert VOCABULARY not in shape
        assert shape not in LAYER


def test_mixed_meshes_gather_over_fsdp_what_tensor_leaves(meshes):
    found = meshes["update"]["mixed"]["collectives"]
    halves = {(32, 32), (24, 32), (32, 24)}
    assert shapes(found, "all-gather", in_loop=True) == halves
    gathered = shapes(found, "all-gather", in_loop=False)
    assert (VOCABULARY // 2, WIDTH) in gathered
    others = gathered - {(VOCABULARY // 2, WIDTH), (3, 16, 5, 4, 8)}
    assert all(math.prod(s) <= ROWS * TOKENS for s in others)
    assert not any(VOCABULARY in shape for _, _, shape in found)


def test_decoding_moves_no_weights_and_no_caches(meshes):
    for kind, found in meshes["decoding"].items():
        assert found["cache_shares"] == [1 / 8] * 8, kind
        assert found["pack"] == [], kind
        moved = shapes(found["segment"], "all-gather", "collective-permute", in_loop=True)
        summed = shapes(found["segment"], "all-reduce", in_loop=True)
        if kind in ("data", "fsdp"):  # only whether all rows have stopped, as scalars
            assert moved | summed == set(), kind
        else:
            # Tokens, and sums of hidden states with rows as the first or last axis. Logits are
            # exchanged, so that each device draws its own rows.
            assert all(len(shape) == 1 for shape in moved), kind
            assert all(WIDTH in (shape[0], shape[-1]) for shape in summed if len(shape) > 1), kind
    # Weights are gathered over fsdp once per update.
    assert meshes["decoding"]["data"]["load"] == meshes["decoding"]["tensor"]["load"] == []
    assert shapes(meshes["decoding"]["fsdp"]["load"], "all-gather") == LAYER | {(VOCABULARY, WIDTH)}


def test_a_mesh_that_does_not_fit_the_devices_is_refused():
    with pytest.raises(ValueError, match=r"data=3 x fsdp=1 x tensor=5 needs 15 devices, but there"):
        make_mesh(3, 1, 5)
