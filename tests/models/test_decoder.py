"""The decoder against transformers: the same weights must give the same logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from selfreg.models import families, hf
from selfreg.models.policy import count_parameters, load_policy, make_policy, random_params

SIZES = {
    "vocab_size": 97,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 80,
    "max_position_embeddings": 256,
}


class Tokenizer:
    name_or_path, eos_token_id, bos_token_id, pad_token_id = "test", 1, None, 0

    def save_pretrained(self, folder):
        pass


# Wavelengths on both sides of the bounds, so that kept, blended and stretched angles occur.
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


def torch_model(family, tied):
    torch.manual_seed(0)
    sizes = SIZES | {"tie_word_embeddings": tied}
    model = {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**sizes, rope_theta=5e4, rms_norm_eps=1e-5)),
        "llama3": lambda: LlamaForCausalLM(LlamaConfig(**sizes, rope_parameters=LLAMA3)),
        "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**sizes, rope_theta=1e6, rms_norm_eps=1e-6)),
        "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**sizes, rope_theta=1e6, head_dim=16)),
    }[family]()
    for parameter in model.parameters():  # norms and biases away from 1 and 0, so that they count
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model.float().eval()


@pytest.fixture(
    params=[
        ("llama", True),
        ("llama", False),
        ("llama3", False),
        ("qwen2", True),
        ("qwen2", False),
        ("qwen3", True),
    ]
)
def pair(request, tmp_path):
    """A transformers model, and the same weights loaded through its folder."""
    model = torch_model(*request.param)
    model.save_pretrained(tmp_path)
    config, params = hf.load_folder(tmp_path)
    return model, make_policy(config, Tokenizer()), params


def logits_of(policy, params, tokens, lengths):
    decoder = policy.decoder(params)
    hidden, _ = decoder(jnp.asarray(tokens), jnp.asarray(lengths), jnp.dtype("float32"))
    return np.asarray(hidden @ decoder.head_weight.T)


def test_logits_equal_transformers_with_padding(pair):
    model, policy, params = pair
    generator = np.random.default_rng(0)
    tokens = generator.integers(0, 97, (3, 40)).astype(np.int32)
    lengths = np.array([40, 17, 1], np.int32)
    mask = (np.arange(40) < lengths[:, None]).astype(np.int64)
    with torch.no_grad():
        wanted = model(torch.tensor(tokens, dtype=torch.long), attention_mask=torch.tensor(mask))
    got = logits_of(policy, params, tokens, lengths)
    difference = np.abs(got - wanted.logits.numpy())[mask.astype(bool)]
    assert difference.max() < 1e-4


def test_continuations_side_by_side_see_their_prefix_and_themselves_alone(pair):
    _, policy, params = pair
    generator = np.random.default_rng(1)
    prompts = generator.integers(0, 97, (2, 12)).astype(np.int32)
    prompt_lengths = np.array([12, 5], np.int32)
    rows = generator.integers(0, 97, (3, 14)).astype(np.int32)
    row_prefix, cuts = np.array([1, 0, 1]), [(0, 1, 9), (0, 14), (0, 5, 9, 12)]
    decoder = policy.decoder(params)
    dtype = jnp.dtype("float32")
    _, prefix = decoder(jnp.asarray(prompts), jnp.asarray(prompt_lengths), dtype)
    parts = [np.split(np.arange(14), cut[1:]) for cut in cuts]
    segments = [np.repeat(np.arange(len(p)), [len(s) for s in p]) for p in parts]
    starts = prompt_lengths[row_prefix]
    positions = [
        n + np.concatenate([s - s[:1] for s in p]) for n, p in zip(starts, parts, strict=True)
    ]
    got = decoder.extend(
        jnp.asarray(rows), jnp.asarray(segments), jnp.asarray(positions), prefix,
        jnp.asarray(prompt_lengths), jnp.asarray(row_prefix), dtype,
    )  # fmt: skip
    for row, (index, spans) in enumerate(zip(row_prefix, parts, strict=True)):
        prompt = prompts[index, : prompt_lengths[index]]
        for span in filter(len, spans):
            whole = np.concatenate([prompt, rows[row, span]])[None]
            wanted, _ = decoder(jnp.asarray(whole), jnp.array([len(whole[0])]), dtype)
            np.testing.assert_allclose(got[row, span], wanted[0, len(prompt) :], atol=1e-5)


def test_remat_changes_no_gradient(pair):
    _, policy, params = pair
    tokens, lengths = jnp.arange(20)[None] % 97, jnp.array([20])

    def loss(params, policy):
        return jnp.sum(policy.decoder(params)(tokens, lengths, jnp.dtype("float32"))[0] ** 2)

    kept = jax.grad(loss)(params, policy)
    again = jax.grad(loss)(params, make_policy(policy.config, Tokenizer(), remat=True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), kept, again)


def test_a_folder_round_trip_is_bit_identical_and_opens_in_transformers(pair, tmp_path):
    model, policy, params = pair
    hf.save_folder(tmp_path / "out", policy.config, params, Tokenizer())
    config, again = hf.load_folder(tmp_path / "out")
    assert config == policy.config
    jax.tree.map(np.testing.assert_array_equal, params, again)
    reopened = type(model).from_pretrained(tmp_path / "out")
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.equal(reopened(tokens).logits, model(tokens).logits)


def test_faulty_folders_are_refused_by_name(pair, tmp_path):
    _, policy, params = pair
    tensors = hf.tensors_from_params(params)
    tensors["extra.weight"] = tensors.pop("model.norm.weight")
    tensors["model.layers.1.mlp.up_proj.weight"] = np.zeros((2, 2), np.float32)
    with pytest.raises(ValueError) as error:
        hf.params_from_tensors(policy.config, tensors, "here")
    for words in ("missing model.norm.weight", "unknown extra.weight", "up_proj.weight is (2, 2)"):
        assert words in str(error.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architectures": ["MambaForCausalLM"]}, "MambaForCausalLM"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "rope_type='yarn'"),
        ({"num_key_value_heads": 3}, "heads=4"),
    ],
)
def test_unknown_shapes_are_refused(change, words):
    raw = families.config_to_hf(load_policy("tiny")[0].config)
    with pytest.raises(ValueError, match=words):
        families.config_from_hf(raw | change, "here")


def test_random_weights_have_the_declared_shapes():
    policy, params = load_policy("tiny")
    drawn = random_params(policy.config, seed=3)
    shapes = jax.tree.map(np.shape, params)
    assert jax.tree.map(np.shape, drawn) == shapes
    assert count_parameters(params) == 754_816
