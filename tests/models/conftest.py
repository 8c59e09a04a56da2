"""Tiny random models of every family, made by transformers and loaded from saved folders."""

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from selfreg.policy.models import hf
from selfreg.policy.models.policy import Policy, make_policy

SIZES = {
    "vocab_size": 97,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 80,
    "max_position_embeddings": 256,
}
# Wavelengths on both sides of the bounds, so that some angles are kept, some blended and some
# stretched.
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
# No value is its config class's default, so that each must be read and used.
GEMMA3 = {
    "head_dim": 16,
    "query_pre_attn_scalar": 24,
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 200.0},
        "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5e4},
    },
}
MODELS = {
    "llama": lambda s: LlamaForCausalLM(LlamaConfig(**s, rope_theta=5e4, rms_norm_eps=1e-5)),
    "llama3": lambda s: LlamaForCausalLM(LlamaConfig(**s, rope_parameters=LLAMA3)),
    "qwen2": lambda s: Qwen2ForCausalLM(Qwen2Config(**s, rope_theta=1e6)),
    "qwen3": lambda s: Qwen3ForCausalLM(Qwen3Config(**s, rope_theta=1e6, head_dim=16)),
    "gemma3": lambda s: Gemma3ForCausalLM(Gemma3TextConfig(**s, **GEMMA3)),
}
# Llama 3 has the same two kinds of head as Llama, and no Gemma has an untied head.
CASES = [
    *((family, tied) for family in ("llama", "qwen2", "qwen3") for tied in (True, False)),
    ("llama3", False),
    ("gemma3", True),
]


class Tokenizer:
    name_or_path, eos_token_id, bos_token_id, pad_token_id = "test", 1, None, 0

    def save_pretrained(self, folder):
        pass

    def batch_decode(self, rows, **_):
        return [""] * len(rows)


class Pair(NamedTuple):
    """Make a transformers model, and load the same weights from its folder."""

    family: str
    tied: bool
    model: Any
    policy: Policy
    params: Any
    folder: Path


@pytest.fixture(scope="session", params=CASES, ids=lambda c: c[0] + ("" if c[1] else "-untied"))
def pair(request, tmp_path_factory):
    family, tied = request.param
    torch.manual_seed(0)
    model = MODELS[family](SIZES | {"tie_word_embeddings": tied})
    for parameter in model.parameters():  # norms and biases away from 1 and 0, so that they count
        parameter.data += 0.05 * torch.randn_like(parameter)
    folder = tmp_path_factory.mktemp(family)
    model.float().eval().save_pretrained(folder)
    config, params = hf.load_folder(folder)
    return Pair(family, tied, model, make_policy(config, Tokenizer()), params, folder)


@pytest.fixture(scope="session")
def tokenizer():
    return Tokenizer()
