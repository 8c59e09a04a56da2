"""Hugging Face folders in and out: config.json, safetensors and tokenizer, bit for bit."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from selfreg.models.families import (
    TOP_NAMES,
    block_names,
    config_from_hf,
    config_to_hf,
    text_tensor_name,
)
from selfreg.models.shape import DecoderConfig


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
    if config.sandwich_norms:
        shapes |= {"post_attention_norm": (width,), "post_ffn_norm": (width,)}
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
    shapes, names = expected_shapes(config), block_names(config)
    wanted = {TOP_NAMES[n]: s for n, s in shapes.items() if n in TOP_NAMES}
    for name in shapes.keys() & names.keys():
        for layer in range(config.layers):
            wanted[f"model.layers.{layer}.{names[name]}"] = shapes[name]
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
        layers = [tensors[f"model.layers.{i}.{names[name]}"] for i in range(config.layers)]
        return np.stack([np.asarray(t, np.float32) for t in layers])

    params: dict[str, Any] = {
        name: np.asarray(tensors[TOP_NAMES[name]], np.float32)
        for name in shapes.keys() & TOP_NAMES.keys()
    }
    params["blocks"] = {name: stacked(name) for name in sorted(shapes.keys() & names.keys())}
    return params


def tensors_from_params(config: DecoderConfig, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The inverse of `params_from_tensors`: weights under Hugging Face's names."""
    names = block_names(config)
    tensors = {TOP_NAMES[n]: np.asarray(v) for n, v in params.items() if n != "blocks"}
    for name, stack in params["blocks"].items():
        for layer, weight in enumerate(np.asarray(stack)):
            tensors[f"model.layers.{layer}.{names[name]}"] = np.ascontiguousarray(weight)
    return tensors


def load_folder(folder: Path) -> tuple[DecoderConfig, dict[str, Any]]:
    """Shape and float32 weights of a Hugging Face folder.

    Raises:
      ValueError: A file is missing, or what it holds does not fit the decoder.
    """
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} is no Hugging Face folder: it has no config.json")
    raw = json.loads((folder / "config.json").read_text())
    config = config_from_hf(raw, str(folder))
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(f"{folder} holds no *.safetensors file")
    tensors: dict[str, np.ndarray] = {}
    for file in files:
        # The flax reader knows bfloat16, which NumPy's does not.
        with safe_open(file, framework="flax") as opened:
            for name in opened.keys():  # noqa: SIM118  # no dict
                if own := text_tensor_name(raw, name):
                    tensors[own] = np.asarray(opened.get_tensor(name))
    return config, params_from_tensors(config, tensors, str(folder))


def save_folder(folder: Path, config: DecoderConfig, params: Any, tokenizer: Any) -> None:
    """Write a folder that transformers and `load_folder` open: config, weights and tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    special = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    raw = config_to_hf(config) | {"bos_token_id": tokenizer.bos_token_id} | special
    (folder / "config.json").write_text(json.dumps(raw, indent=2) + "\n")
    tensors = tensors_from_params(config, jax.tree.map(np.asarray, params))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save_pretrained(folder)
