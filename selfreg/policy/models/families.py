"""Supported architectures: their shapes in config.json, and the names of their tensors."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from selfreg.policy.models.shape import DecoderConfig, LinearScaling, RopeScaling, Sliding

TOP_NAMES = {
    "embedding": "model.embed_tokens.weight",
    "final_norm": "model.norm.weight",
    "head": "lm_head.weight",
}
# Our name of a block's weight -> Hugging Face's name in a layer. Both are [out, in].
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
# Gemma applies post_attention_layernorm to attention's output. Llama applies the norm of that name
# to the FFN's input.
SANDWICH_NAMES = BLOCK_NAMES | {
    "post_attention_norm": "post_attention_layernorm.weight",
    "ffn_norm": "pre_feedforward_layernorm.weight",
    "post_ffn_norm": "post_feedforward_layernorm.weight",
}


class Family(NamedTuple):
    """A family of models: the decoder settings that its name implies, and its config.json format.

    Attributes:
      architecture: The architecture name in saved folders.
      model_type: The family's `model_type` in config.json.
      traits: The fields of DecoderConfig that the architecture implies.
      fixed: Keys of config.json and the only values that the decoder supports for them.
      defaults: transformers' defaults for keys that config.json may omit.
      has_sliding: Whether it mixes full and sliding-window layers.
    """

    architecture: str
    model_type: str
    traits: Mapping[str, Any]
    fixed: Mapping[str, Any]
    defaults: Mapping[str, Any]
    has_sliding: bool = False


_PLAIN = {
    "qkv_bias": False,
    "qk_norm": False,
    "centered_norms": False,
    "sandwich_norms": False,
    "scaled_embedding": False,
    "activation": "silu",
}
_GEMMA3 = {
    "qkv_bias": False,
    "qk_norm": True,
    "centered_norms": True,
    "sandwich_norms": True,
    "scaled_embedding": True,
    "activation": "gelu_pytorch_tanh",
}
FAMILIES = (
    Family(
        "LlamaForCausalLM", "llama", _PLAIN,
        fixed={"hidden_act": "silu", "attention_bias": False, "mlp_bias": False},
        defaults={"rms_norm_eps": 1e-6},
    ),
    Family(
        "Qwen2ForCausalLM", "qwen2", _PLAIN | {"qkv_bias": True},
        fixed={"hidden_act": "silu", "use_sliding_window": False},
        defaults={"rms_norm_eps": 1e-6},
    ),
    Family(
        "Qwen3ForCausalLM", "qwen3", _PLAIN | {"qk_norm": True},
        fixed={"hidden_act": "silu", "use_sliding_window": False, "attention_bias": False},
        defaults={"rms_norm_eps": 1e-6, "head_dim": 128},
    ),
    # The config.json of Gemma 3 4B and larger omits values that equal transformers' defaults.
    Family(
        "Gemma3ForCausalLM", "gemma3_text", _GEMMA3,
        fixed={
            "hidden_activation": "gelu_pytorch_tanh",
            "attention_bias": False,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "use_bidirectional_attention": False,
        },
        defaults={
            "vocab_size": 262_208,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "rms_norm_eps": 1e-6,
            "query_pre_attn_scalar": 256,
            "rope_theta": 1e6,
            "rope_local_base_freq": 1e4,
            "sliding_window": 4096,
            "sliding_window_pattern": 6,
            "max_position_embeddings": 131_072,
            "tie_word_embeddings": True,
        },
        has_sliding=True,
    ),
)  # fmt: skip
ARCHITECTURES = {family.architecture: family for family in FAMILIES} | {
    # A model of text and vision. Only its text part is read, and it is saved as a text-only folder.
    "Gemma3ForConditionalGeneration": FAMILIES[-1],
}
_LAYER_TYPES = {"sliding_attention": True, "full_attention": False}


def family_of(config: DecoderConfig) -> Family:
    """Return the family whose traits match a decoder's.

    Raises:
      ValueError: No family has this combination of traits.
    """
    for family in FAMILIES:
        if all(getattr(config, name) == value for name, value in family.traits.items()):
            return family
    traits = ", ".join(f"{name}={getattr(config, name)}" for name in _PLAIN)
    raise ValueError(f"no architecture has all of {traits}")


def block_names(config: DecoderConfig) -> Mapping[str, str]:
    """Return the map from our names to Hugging Face's, for every weight that a block may have."""
    return SANDWICH_NAMES if config.sandwich_norms else BLOCK_NAMES


def text_tensor_name(raw: Mapping[str, Any], name: str) -> str | None:
    """Return the name that a folder's tensor would have in a text-only folder.

    Args:
      raw: The folder's parsed config.json.
      name: The tensor's name.

    Returns:
      The name, or None if the tensor belongs to another part of the model, such as vision.
    """
    if "text_config" not in raw:
        return name
    # Names on the hub, and names of modules in transformers since version 4.52.
    for prefix, own in (
        ("language_model.model.", "model."),
        ("model.language_model.", "model."),
        ("language_model.lm_head.", "lm_head."),
        ("lm_head.", "lm_head."),
    ):
        if name.startswith(prefix):
            return own + name.removeprefix(prefix)
    return None


def config_from_hf(raw: Mapping[str, Any], source: str) -> DecoderConfig:
    """Return the decoder's shape from a parsed config.json.

    Args:
      raw: The parsed file.
      source: The name of the file or model in errors.

    Raises:
      ValueError: The decoder does not support the architecture or an option, or a key is missing.
    """
    architecture = (raw.get("architectures") or ["none"])[0]
    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ValueError(f"{source}: architecture {architecture} is not one of {known}")
    family = ARCHITECTURES[architecture]
    text = {**family.defaults, **raw.get("text_config", {}), **raw}
    for key, allowed in family.fixed.items():
        if text.get(key) not in (None, allowed):
            raise ValueError(f"{source}: {key}={text[key]!r} is not supported, only {allowed!r}")
    missing = {
        "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"
    } - text.keys()  # fmt: skip
    if missing:
        raise ValueError(f"{source}: config.json lacks {', '.join(sorted(missing))}")
    heads = text["num_attention_heads"]
    # transformers 5 stores all rotary settings in rope_parameters, with one entry per layer type if
    # they differ. Earlier versions store the bases beside rope_scaling, which applies to full
    # layers.
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    full = rope.get("full_attention", rope)
    return DecoderConfig(
        vocab_size=text["vocab_size"],
        width=text["hidden_size"],
        layers=text["num_hidden_layers"],
        heads=heads,
        kv_heads=text.get("num_key_value_heads") or heads,
        head_dim=text.get("head_dim") or text["hidden_size"] // heads,
        ffn_width=text["intermediate_size"],
        rope_theta=float(full.get("rope_theta") or text.get("rope_theta") or 10_000.0),
        norm_eps=float(text["rms_norm_eps"]),
        tied_head=bool(text.get("tie_word_embeddings", False)),
        query_scalar=text.get("query_pre_attn_scalar"),
        rope_scaling=_rope_scaling(full, source),
        sliding=_sliding(text, rope, source) if family.has_sliding else None,
        max_positions=text.get("max_position_embeddings"),
        **family.traits,
    )


def _sliding(text: Mapping[str, Any], rope: Mapping[str, Any], source: str) -> Sliding:
    layers, every = text["num_hidden_layers"], text["sliding_window_pattern"]
    names = text.get("layer_types") or [
        "full_attention" if (i + 1) % every == 0 else "sliding_attention" for i in range(layers)
    ]
    unknown = sorted(set(names) - _LAYER_TYPES.keys())
    if unknown or len(names) != layers:
        raise ValueError(
            f"{source}: layer_types must name {' or '.join(_LAYER_TYPES)} for each of the {layers} "
            f"layers, but names {len(names)}" + (f", including {unknown[0]!r}" if unknown else "")
        )
    own = rope.get("sliding_attention", {})
    if _rope_scaling(own, source):
        raise ValueError(f"{source}: rope_parameters.sliding_attention={own} must not be scaled")
    return Sliding(
        window=text["sliding_window"],
        layers=tuple(_LAYER_TYPES[name] for name in names),
        rope_theta=float(own.get("rope_theta") or text["rope_local_base_freq"]),
    )


def _rope_scaling(rope: Mapping[str, Any], source: str) -> RopeScaling | LinearScaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind == "linear":
        return LinearScaling(factor=float(rope["factor"]))
    if kind != "llama3":
        known = "default, linear and llama3"
        raise ValueError(f"{source}: rope_type={kind!r} is not supported, only {known}")
    return RopeScaling(
        factor=float(rope["factor"]),
        low_frequency_factor=float(rope["low_freq_factor"]),
        high_frequency_factor=float(rope["high_freq_factor"]),
        original_positions=int(rope["original_max_position_embeddings"]),
    )


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """Return the config.json that transformers reads back as the same shape.

    It uses the format of transformers 4, which version 5 reads too. SGLang reads whatever its
    version of transformers reads.

    Raises:
      ValueError: No family has this shape.
    """
    family = family_of(config)
    raw = {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.ffn_width,
        "rope_theta": config.rope_theta,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tied_head,
        "dtype": "float32",
    } | dict(family.fixed)
    if config.max_positions is not None:
        raw["max_position_embeddings"] = config.max_positions
    if config.query_scalar is not None:
        raw["query_pre_attn_scalar"] = config.query_scalar
    if config.rope_scaling is not None:
        raw["rope_scaling"] = _rope_scaling_to_hf(config.rope_scaling)
    if config.sliding is not None:
        kinds = {slides: name for name, slides in _LAYER_TYPES.items()}
        raw["sliding_window"] = config.sliding.window
        raw["rope_local_base_freq"] = config.sliding.rope_theta
        raw["layer_types"] = [kinds[slides] for slides in config.sliding.layers]
    return raw


def _rope_scaling_to_hf(scaling: RopeScaling | LinearScaling) -> dict[str, Any]:
    if isinstance(scaling, LinearScaling):
        return {"rope_type": "linear", "factor": scaling.factor}
    return {
        "rope_type": "llama3",
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_frequency_factor,
        "high_freq_factor": scaling.high_frequency_factor,
        "original_max_position_embeddings": scaling.original_positions,
    }
