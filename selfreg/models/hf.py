"""Hugging Face folders in and out: config.json, safetensors and tokenizer, bit for bit."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

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


def expected_shapes(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    """Every weight's shape by our own name; those of blocks without the layer axis."""
    heads, kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
    width, ffn = config.width, config.ffn_width
    shapes: dict[str, tuple[int, ...]] = {
        "embedding": (config.vocab_size, width),
        "final_norm": (width,),
        "q": (heads, width),
        "k": (kv, width),
        "v": (kv, width),
        "o": (width, heads),
        "gate": (ffn, width),
        "up": (ffn, width),
        "down": (width, ffn),
        "attention_norm": (width,),
        "ffn_norm": (width,),
    }
    if config.qkv_bias:
        shapes |= {"q_bias": (heads,), "k_bias": (kv,), "v_bias": (kv,)}
    if config.qk_norm:
        shapes |= {"q_norm": (config.head_dim,), "k_norm": (config.head_dim,)}
    if not config.tied_head:
        shapes["head"] = (config.vocab_size, width)
    return shapes


def params_from_tensors(
    config: DecoderConfig, tensors: Mapping[str, np.ndarray], source: str
) -> dict[str, Any]:
    """The decoder's weights from tensors under Hugging Face's names.

    Args:
      config: The shape.
      tensors: By name; any float type.
      source: Named in errors.

    Returns:
      float32 NumPy arrays, nested as `nnx.to_pure_dict(Decoder)`, blocks stacked [L, ...].

    Raises:
      ValueError: A tensor is missing, left over or of another shape; all such are named.
    """
    shapes = expected_shapes(config)
    wanted = {TOP_NAMES[n]: s for n, s in shapes.items() if n in TOP_NAMES}
    for name in shapes.keys() & BLOCK_NAMES.keys():
        for layer in range(config.layers):
            wanted[f"model.layers.{layer}.{BLOCK_NAMES[name]}"] = shapes[name]
    # A tied head is often stored a second time; it must then be the embedding itself.
    spare = {"lm_head.weight"} if config.tied_head else set()
    faults = [f"missing {name}" for name in sorted(wanted.keys() - tensors.keys())]
    faults += [f"unknown {name}" for name in sorted(tensors.keys() - wanted.keys() - spare)]
    faults += [
        f"{name} is {tensors[name].shape}, not {shape}"
        for name, shape in sorted(wanted.items())
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    if faults:
        shown = "; ".join(faults[:8]) + (f"; and {len(faults) - 8} more" if faults[8:] else "")
        raise ValueError(f"{source} does not hold this decoder's weights: {shown}")

    def stacked(name: str) -> np.ndarray:
        layers = [tensors[f"model.layers.{i}.{BLOCK_NAMES[name]}"] for i in range(config.layers)]
        return np.stack([np.asarray(t, np.float32) for t in layers])

    params: dict[str, Any] = {
        name: np.asarray(tensors[TOP_NAMES[name]], np.float32)
        for name in shapes.keys() & TOP_NAMES.keys()
    }
    params["blocks"] = {name: stacked(name) for name in sorted(shapes.keys() & BLOCK_NAMES.keys())}
    return params


def tensors_from_params(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The inverse of `params_from_tensors`: weights under Hugging Face's names."""
    tensors = {TOP_NAMES[n]: np.asarray(v) for n, v in params.items() if n != "blocks"}
    for name, stack in params["blocks"].items():
        for layer, weight in enumerate(np.asarray(stack)):
            tensors[f"model.layers.{layer}.{BLOCK_NAMES[name]}"] = np.ascontiguousarray(weight)
    return tensors


def load_folder(folder: Path) -> tuple[DecoderConfig, dict[str, Any]]:
    """Shape and float32 weights of a Hugging Face folder.

    Raises:
      ValueError: A file is missing, or what it holds does not fit the decoder.
    """
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} is no Hugging Face folder: it has no config.json")
    config = config_from_hf(json.loads((folder / "config.json").read_text()), str(folder))
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(f"{folder} holds no *.safetensors file")
    tensors: dict[str, np.ndarray] = {}
    for file in files:
        # The flax reader knows bfloat16, which NumPy's does not.
        with safe_open(file, framework="flax") as opened:
            tensors |= {name: np.asarray(opened.get_tensor(name)) for name in opened.keys()}  # noqa: SIM118  # no dict
    return config, params_from_tensors(config, tensors, str(folder))


def save_folder(folder: Path, config: DecoderConfig, params: Any, tokenizer: Any) -> None:
    """Write a folder that transformers and `load_folder` open: config, weights and tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    special = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    raw = config_to_hf(config) | {"bos_token_id": tokenizer.bos_token_id} | special
    (folder / "config.json").write_text(json.dumps(raw, indent=2) + "\n")
    tensors = tensors_from_params(jax.tree.map(np.asarray, params))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save_pretrained(folder)
