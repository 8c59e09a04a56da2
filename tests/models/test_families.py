"""config.json in old and new formats, folders of text and vision models, and refused configs."""

import json

import jax
import numpy as np
import pytest
import torch
from transformers import (
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
)

from selfreg.policy.models import families, hf
from selfreg.policy.models.policy import load_policy
from selfreg.policy.models.shape import LinearScaling

# The text part of the hub's 4B config.json. All other values are transformers' defaults.
HUB_4B = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "eos_token_id": [1, 106],
    "model_type": "gemma3",
    "text_config": {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    },
}
HUB_1B = {
    "architectures": ["Gemma3ForCausalLM"],
    "attention_bias": False,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 1152,
    "intermediate_size": 6912,
    "max_position_embeddings": 32768,
    "model_type": "gemma3_text",
    "num_attention_heads": 4,
    "num_hidden_layers": 26,
    "num_key_value_heads": 1,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-06,
    "rope_local_base_freq": 10000,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": 512,
    "sliding_window_pattern": 6,
    "vocab_size": 262144,
}


def test_the_hubs_gemma_folders_are_read():
    config = families.config_from_hf(HUB_4B, "here")
    assert (config.width, config.layers, config.heads, config.kv_heads) == (2560, 34, 8, 4)
    assert (config.vocab_size, config.head_dim, config.tied_head) == (262_208, 256, True)
    assert (config.rope_theta, config.rope_scaling) == (1e6, LinearScaling(8.0))
    assert (config.sliding.window, config.sliding.rope_theta) == (1024, 1e4)
    assert [i for i, slides in enumerate(config.slides) if not slides] == [5, 11, 17, 23, 29]
    small = families.config_from_hf(HUB_1B, "here")
    assert (small.layers, small.kv_heads, small.window) == (26, 1, 512)
    assert small.rope_scaling is None
    assert small.attention_scale == 1 / 16


@pytest.mark.parametrize("raw", [HUB_4B, HUB_1B], ids=["4b", "1b"])
def test_old_new_and_our_own_form_mean_the_same_to_us_and_to_transformers(raw):
    config = families.config_from_hf(raw, "here")
    text = raw.get("text_config", raw)
    known = Gemma3TextConfig(**text)
    # The same config as transformers 5 would write it.
    new = known.to_dict() | {"architectures": ["Gemma3ForCausalLM"]}
    assert "sliding_attention" in new["rope_parameters"]
    assert families.config_from_hf(new, "here") == config
    saved = families.config_to_hf(config)
    assert families.config_from_hf(saved, "here") == config
    again = Gemma3TextConfig(**saved)
    for key in saved.keys() & new.keys() - {"architectures", "dtype"}:
        assert getattr(again, key) == getattr(known, key), key
    assert again.rope_parameters == known.rope_parameters
    assert again.layer_types == known.layer_types


@pytest.fixture(scope="module")
def both():
    """Make a tiny model of text and vision."""
    torch.manual_seed(0)
    text = {
        "vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "intermediate_size": 48, "head_dim": 16, "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"],
    }  # fmt: skip
    vision = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "image_size": 16, "patch_size": 8,
    }  # fmt: skip
    config = Gemma3Config(
        text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=96
    )
    return Gemma3ForConditionalGeneration(config).float().eval()


@pytest.mark.parametrize("form", ["hub", "modules"])
def test_the_text_of_a_folder_with_vision_is_read_and_saved_alone(both, form, tokenizer, tmp_path):
    # save_pretrained writes the hub's names. save_original_format=False writes the modules' names.
    both.save_pretrained(tmp_path / "in", save_original_format=form == "hub")
    with hf.safe_open(tmp_path / "in" / "model.safetensors", framework="np") as file:
        start = {"hub": "language_model.model.", "modules": "model.language_model."}[form]
        assert any(name.startswith(start) for name in file.keys())  # noqa: SIM118
        assert any("vision_tower" in name for name in file.keys())  # noqa: SIM118
    config, params = hf.load_folder(tmp_path / "in")
    hf.save_folder(tmp_path / "out", config, params, tokenizer)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"] == [
        "Gemma3ForCausalLM"
    ]
    assert hf.load_folder(tmp_path / "out")[0] == config
    jax.tree.map(np.testing.assert_array_equal, params, hf.load_folder(tmp_path / "out")[1])
    alone, report = Gemma3ForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.equal(alone(tokens).logits, both(tokens).logits)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architectures": ["MambaForCausalLM"]}, "MambaForCausalLM"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ({"attention_bias": True}, "attention_bias=True"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "rope_type='yarn'"),
        ({"num_key_value_heads": 3}, "heads=4"),
    ],
)
def test_unknown_shapes_are_refused(change, words):
    raw = families.config_to_hf(load_policy("tiny")[0].config)
    with pytest.raises(ValueError, match=words):
        families.config_from_hf(raw | change, "here")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping=30.0"),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping=50.0"),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention=True"),
        ({"hidden_activation": "silu"}, "hidden_activation='silu'"),
        ({"layer_types": ["full_attention"] * 25}, "each of the 26 layers, but names 25"),
        ({"layer_types": ["chunked_attention"] * 26}, "including 'chunked_attention'"),
        (
            {"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2.0}}},
            "must not be scaled",
        ),
    ],
)
def test_unknown_gemmas_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        families.config_from_hf(HUB_1B | change, "here")


def test_other_faults_are_refused_by_name():
    qwen = {"architectures": ["Qwen2ForCausalLM"], "use_sliding_window": True}
    with pytest.raises(ValueError, match="use_sliding_window=True"):
        families.config_from_hf(qwen, "here")
    with pytest.raises(
        ValueError, match=r"here: config\.json lacks hidden_size, intermediate_size"
    ):
        families.config_from_hf(HUB_4B | {"text_config": {}}, "here")
