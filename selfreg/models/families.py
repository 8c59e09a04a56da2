"""Architectures that the decoder serves: what config.json says of the shape, and tensors' names."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from selfreg.models.decoder import DecoderConfig, RopeScaling

# Our weight's name in a block -> Hugging Face's in a layer. Both are [out, in].
BLOCK_NAMES = {
    "q": "self_attn.q_proj.weight",
    "k": "self_attn.k_proj.weight",
    "v": "self_attn.v_proj.weight",
    "o": "self_attn.o_proj.weight",
    "q_bias": "self_attn.q_proj.bias",
    "k_bias": "self_attn.k_proj.bias",
    "v_bias": "self_attn.v_proj.bias",
    "q_norm": "self_attn.q_norm.weight",
    "k_norm": "self_attn.k_norm.weight",
    "gate": "mlp.gate_proj.weight",
    "up": "mlp.up_proj.weight",
    "down": "mlp.down_proj.weight",
    "attention_norm": "input_layernorm.weight",
    "ffn_norm": "post_attention_layernorm.weight",
}
TOP_NAMES = {
    "embedding": "model.embed_tokens.weight",
    "final_norm": "model.norm.weight",
    "head": "lm_head.weight",
}
# A model that also sees keeps its text half below one of these.
TEXT_PREFIXES = {
    "language_model.model.": "model.",
    "model.language_model.": "model.",
    "language_model.lm_head.": "lm_head.",
}
SIGHT = ("vision_tower.", "multi_modal_projector.")


class Family(NamedTuple):
    """What an architecture's name says of its decoder, and how config.json calls it."""

    model_type: str
    qkv_bias: bool
    qk_norm: bool


ARCHITECTURES = {
    "LlamaForCausalLM": Family("llama", qkv_bias=False, qk_norm=False),
    "Qwen2ForCausalLM": Family("qwen2", qkv_bias=True, qk_norm=False),
    "Qwen3ForCausalLM": Family("qwen3", qkv_bias=False, qk_norm=True),
}


def tensor_names(config: DecoderConfig) -> dict[str, str]:
    """Hugging Face's name of every weight by our own; `{}` stands for the layer of a block's."""
    return TOP_NAMES | {own: f"model.layers.{{}}.{name}" for own, name in BLOCK_NAMES.items()}


def text_name(name: str) -> str | None:
    """A tensor's name as a model of text alone has it; None for what only images pass through."""
    if name.removeprefix("model.").startswith(SIGHT):
        return None
    for prefix, text in TEXT_PREFIXES.items():
        if name.startswith(prefix):
            return text + name.removeprefix(prefix)
    return name


def config_from_hf(raw: Mapping[str, Any], source: str) -> DecoderConfig:
    """The decoder's shape from a parsed config.json.

    Args:
      raw: The parsed file.
      source: Named in errors.

    Raises:
      ValueError: An architecture or an option that the decoder does not have.
    """
    architecture = (raw.get("architectures") or ["none"])[0]
    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ValueError(f"{source}: architecture {architecture} is not one of {known}")
    family = ARCHITECTURES[architecture]
    # transformers 5 moved the rotary base into rope_parameters.
    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    refused = {
        "hidden_act": (raw.get("hidden_act", "silu"), "silu"),
        "use_sliding_window": (bool(raw.get("use_sliding_window")), False),
        "mlp_bias": (bool(raw.get("mlp_bias")), False),
        "attention_bias": (bool(raw.get("attention_bias")), False),
    }
    for key, (value, allowed) in refused.items():
        if value != allowed:
            raise ValueError(f"{source}: {key}={value!r} is not supported, only {allowed!r}")
    heads = raw["num_attention_heads"]
    return DecoderConfig(
        vocab_size=raw["vocab_size"],
        width=raw["hidden_size"],
        layers=raw["num_hidden_layers"],
        heads=heads,
        kv_heads=raw.get("num_key_value_heads") or heads,
        head_dim=raw.get("head_dim") or raw["hidden_size"] // heads,
        ffn_width=raw["intermediate_size"],
        rope_theta=float(raw.get("rope_theta") or rope.get("rope_theta", 10_000.0)),
        norm_eps=float(raw["rms_norm_eps"]),
        qkv_bias=family.qkv_bias,
        qk_norm=family.qk_norm,
        tied_head=bool(raw.get("tie_word_embeddings", False)),
        rope_scaling=_rope_scaling(rope, source),
    )


def _rope_scaling(rope: Mapping[str, Any], source: str) -> RopeScaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind != "llama3":
        raise ValueError(f"{source}: rope_type={kind!r} is not supported, only default and llama3")
    return RopeScaling(
        factor=float(rope["factor"]),
        low_frequency_factor=float(rope["low_freq_factor"]),
        high_frequency_factor=float(rope["high_freq_factor"]),
        original_positions=int(rope["original_max_position_embeddings"]),
    )


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """The config.json that transformers reads back as the same shape."""
    traits = (config.qkv_bias, config.qk_norm)
    name = next(n for n, f in ARCHITECTURES.items() if (f.qkv_bias, f.qk_norm) == traits)
    scaling = config.rope_scaling
    scaled = (
        {}
        if scaling is None
        else {
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": scaling.factor,
                "low_freq_factor": scaling.low_frequency_factor,
                "high_freq_factor": scaling.high_frequency_factor,
                "original_max_position_embeddings": scaling.original_positions,
            }
        }
    )
    return scaled | {
        "architectures": [name],
        "model_type": ARCHITECTURES[name].model_type,
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.ffn_width,
        "rope_theta": config.rope_theta,
        "rms_norm_eps": config.norm_eps,
        "hidden_act": "silu",
        "tie_word_embeddings": config.tied_head,
        "dtype": "float32",
    }
