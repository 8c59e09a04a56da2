"""Hugging Face folders: read and written bit for bit, streamed, with faults named first."""

import json
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from selfreg.policy.models import hf
from selfreg.policy.models.policy import load_policy, open_policy
from selfreg.policy.models.weights import place

TINY, PARAMS = load_policy("tiny")


def save(folder, **options):
    hf.save_folder(folder, TINY.config, PARAMS, TINY.tokenizer, **options)
    return folder


def tensors_of(folder):
    return {n: t for file in folder.glob("*.safetensors") for n, t in load_file(file).items()}


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope="module")
def qwen():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 64}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False}
    model = Qwen2ForCausalLM(Qwen2Config(**sizes, **heads, max_position_embeddings=777))
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model.eval()


@pytest.mark.parametrize("shard_size", ["1GB", "20KB"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_folder_of_transformers_comes_back_bit_for_bit(qwen, tmp_path, dtype, shard_size):
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    qwen.to(getattr(torch, dtype)).save_pretrained(theirs, max_shard_size=shard_size)
    qwen.float()
    assert (theirs / hf.INDEX).exists() == (shard_size != "1GB")
    stored = hf.open_folder(theirs)
    assert stored.config.max_positions == 777
    room = {"1GB": 1 << 30, "20KB": 20_000}[shard_size]
    hf.save_folder(
        ours, stored.config, place(stored.weights), TINY.tokenizer, dtype=dtype, shard_bytes=room
    )
    wanted, got = tensors_of(theirs), tensors_of(ours)
    assert wanted.keys() == got.keys()
    for name, tensor in wanted.items():
        assert got[name].dtype == tensor.dtype == np.dtype(dtype)
        assert got[name].tobytes() == tensor.tobytes()
    files = list(ours.glob("*.safetensors"))
    assert (len(files) > 1) == (shard_size != "1GB")
    assert all(sum(t.nbytes for t in load_file(f).values()) <= room for f in files)
    reopened = AutoModelForCausalLM.from_pretrained(ours, dtype="auto")
    assert reopened.dtype == getattr(torch, dtype)
    for name, tensor in AutoModelForCausalLM.from_pretrained(theirs).state_dict().items():
        assert torch.equal(reopened.state_dict()[name], tensor)


def test_float32_survives_and_bfloat16_rounds_to_nearest(tmp_path):
    equal(hf.load_folder(save(tmp_path / "f32"))[1], PARAMS)
    rounded = jax.tree.map(
        lambda w: np.asarray(w).astype(ml_dtypes.bfloat16).astype(np.float32), PARAMS
    )
    equal(hf.load_folder(save(tmp_path / "bf16", dtype="bfloat16"))[1], rounded)


def change(folder, edit):
    tensors = tensors_of(folder)
    edit(tensors)
    save_file(tensors, folder / hf.SINGLE)


def test_faulty_tensors_are_all_named_before_any_is_read(tmp_path, monkeypatch):
    def edit(tensors):
        tensors["extra.weight"] = tensors.pop("model.norm.weight")
        tensors["model.layers.1.mlp.up_proj.weight"] = np.zeros((2, 2), np.float32)

    change(save(tmp_path / "m"), edit)
    monkeypatch.setattr(hf, "_read", lambda *_: pytest.fail("a tensor was read"))
    with pytest.raises(ValueError) as error:
        open_policy(str(tmp_path / "m"))
    for words in ("missing model.norm.weight", "unknown extra.weight", "up_proj.weight is (2, 2)"):
        assert words in str(error.value)


def test_quantized_tensors_are_named(tmp_path):
    name = "model.layers.0.mlp.up_proj.weight"
    change(
        save(tmp_path / "m"), lambda t: t.update({name: t[name].astype(ml_dtypes.float8_e4m3fn)})
    )
    with pytest.raises(ValueError, match=rf"\({name} is F8_E4M3\), but only F32, BF16, F16"):
        hf.open_folder(tmp_path / "m")


def test_missing_and_torn_files_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"is not a Hugging Face folder: it has no config\.json"):
        hf.open_folder(tmp_path)
    folder = save(tmp_path / "m", shard_bytes=1 << 20)
    first, second, *_ = sorted(folder.glob("*.safetensors"))
    second.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match=rf"{second.name} is damaged or not a safetensors file"):
        hf.open_folder(folder)
    second.write_bytes(first.read_bytes()[:-10])
    with pytest.raises(ValueError, match=rf"{second.name} is damaged or not a safetensors file"):
        hf.open_folder(folder)
    second.unlink()
    with pytest.raises(ValueError, match=rf"has incomplete weights: it lacks {second.name}$"):
        hf.open_folder(folder)


def test_all_of_generation_configs_stop_tokens_stop(tmp_path):
    folder = save(tmp_path / "m", stop_ids=(1, 7))
    assert json.loads((folder / hf.GENERATION).read_text())["eos_token_id"] == [1, 7]
    assert open_policy(str(folder))[0].stop_ids == (1, 7)
    (folder / hf.GENERATION).write_text('{"eos_token_id": [9, 8]}')  # preferred to config.json
    assert open_policy(str(folder))[0].stop_ids == (1, 9, 8)
    (folder / hf.GENERATION).write_text('{"eos_token_id": 9}')
    assert open_policy(str(folder))[0].stop_ids == (1, 9)
    (folder / hf.GENERATION).unlink()
    assert open_policy(str(folder))[0].stop_ids == (1, 7)


def test_template_and_special_tokens_come_back(tmp_path):
    tokenizer = load_policy("tiny")[0].tokenizer
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}<turn>"
    tokenizer.add_special_tokens({"additional_special_tokens": ["<turn>"]})
    hf.save_folder(tmp_path / "m", TINY.config, PARAMS, tokenizer)
    back = open_policy(str(tmp_path / "m"))[0].tokenizer
    assert back.chat_template == tokenizer.chat_template
    assert back.encode("def f<turn>") == tokenizer.encode("def f<turn>")
    # Values that transformers 4 also knows, because servers may run it.
    said = json.loads((tmp_path / "m" / "tokenizer_config.json").read_text())
    assert said["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert said["additional_special_tokens"] == ["<turn>"]
    assert "extra_special_tokens" not in said


def test_nothing_that_looks_like_a_model_is_there_before_it_is_whole(tmp_path):
    class Dies:
        eos_token_id, bos_token_id, pad_token_id = 1, None, 0

        def save_pretrained(self, folder):
            assert (Path(folder) / hf.SINGLE).exists()  # the weights are written
            assert not (tmp_path / "m").exists()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hf.save_folder(tmp_path / "m", TINY.config, PARAMS, Dies())
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(ValueError, match="exists and is not empty"):
        save(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes"]


MEMORY = """
    import json, sys, tracemalloc
    from pathlib import Path
    import jax, jax.numpy as jnp, numpy as np
    from selfreg.policy.mesh import make_mesh
    from selfreg.policy.models import hf
    from selfreg.policy.models.decoder import layout
    from selfreg.policy.models.policy import load_policy
    from selfreg.policy.models.shape import DecoderConfig
    from selfreg.policy.models.weights import place, weight_shapes

    config = DecoderConfig(
        vocab_size=4096, width=1024, layers=6, heads=8, kv_heads=4, head_dim=128, ffn_width=3072,
        rope_theta=1e4, norm_eps=1e-6, qkv_bias=False, tied_head=True,
    )
    shapes = weight_shapes(config)
    shardings = layout(config, make_mesh(1, 4, 2), shapes)

    def numbers(shape):  # bfloat16 holds them exactly, and no two rows or columns are alike
        return (jnp.arange(np.prod(shape)) % 251).astype(jnp.float32).reshape(shape)

    made = jax.tree.map(
        lambda leaf, s: jax.jit(lambda: numbers(leaf.shape), out_shardings=s)(), shapes, shardings
    )
    tracemalloc.start()  # counts NumPy's allocations on the host, but not the devices' memory

    def peak(action):
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        result = action()
        after, highest = tracemalloc.get_traced_memory()
        return result, (highest - before) / 2**20, (after - before) / 2**20

    folder, tokenizer = Path(sys.argv[1]), load_policy("tiny")[0].tokenizer
    save = lambda: hf.save_folder(
        folder, config, made, tokenizer, dtype="bfloat16", shard_bytes=24 << 20
    )
    _, written, _ = peak(save)
    weights = hf.open_folder(folder).weights
    streamed, read, kept = peak(lambda: place(weights, shardings))
    jax.tree.map(np.testing.assert_array_equal, streamed, made)
    for leaf, s in zip(jax.tree.leaves(streamed), jax.tree.leaves(shardings), strict=True):
        assert leaf.sharding == s
    plain = lambda w, s: jax.make_array_from_callback(w.shape, s, w.read)
    _, at_once, _ = peak(lambda: jax.tree.map(plain, weights, shardings))
    leaves = jax.tree.leaves(streamed)
    print(json.dumps({
        "model": sum(leaf.nbytes for leaf in leaves) / 2**20,
        "shard": max(leaf.addressable_shards[0].data.nbytes for leaf in leaves) / 2**20,
        "files": len(list(folder.glob("*.safetensors"))),
        "written": written, "read": read, "kept": kept, "at_once": at_once,
    }))
"""


def test_the_host_holds_one_shard_and_never_the_model(on_eight_devices, tmp_path):
    # With separate system allocations for large blocks, the CPU "device" copies arrays and never
    # shares them. So NumPy holds what a host with real devices would hold.
    said = on_eight_devices(MEMORY, tmp_path / "m", MALLOC_MMAP_THRESHOLD_="65536")
    mb = json.loads(said.splitlines()[-1])
    assert mb["model"] > 300
    assert mb["files"] > 5
    assert mb["shard"] == 9
    assert mb["kept"] < 1
    assert mb["shard"] <= mb["read"] < 1.3 * mb["shard"]
    assert mb["written"] < 1.3 * 24
    # The same measurement detects the cost of reading all shards of one weight at once.
    assert mb["at_once"] > 8 * mb["shard"]
