"""A GGUF file's weights, dequantized to float32 under Hugging Face's names.

The `gguf` package reads and dequantizes with NumPy alone. The trap is the rows of q and k:
llama.cpp stores those of Llama models interleaved for its own rotary embedding, and they must be
put back.
"""

from pathlib import Path
from typing import Any

import numpy as np

from selfreg.models.hf import params_from_tensors
from selfreg.models.shape import DecoderConfig

BLOCK_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
TOP_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}


def unpermute(rows: np.ndarray, heads: int) -> np.ndarray:
    """Put the rows of a q or k weight back from llama.cpp's interleaved pairs to halves.

    Args:
      rows: [heads * head_dim, ...].
      heads: How many heads the rows hold.
    """
    half = rows.shape[0] // heads // 2
    return rows.reshape(heads, half, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def load_gguf(file: Path) -> tuple[DecoderConfig, dict[str, Any]]:
    """Shape and float32 weights of a Llama or Qwen2 GGUF file.

    Raises:
      ValueError: The file is of another architecture or lacks weights.
      ImportError: The `gguf` package is not installed; the message names the extra.
    """
    try:
        from gguf import GGUFReader
        from gguf.quants import dequantize
    except ImportError as error:
        message = "reading a GGUF file needs the package gguf: pip install selfreg[smollm2]"
        raise ImportError(message) from error
    reader = GGUFReader(file)
    architecture = reader.fields["general.architecture"].contents()
    if architecture not in ("llama", "qwen2"):
        raise ValueError(f"{file}: architecture {architecture!r} is neither llama nor qwen2")

    def number(key: str) -> Any:
        return reader.fields[f"{architecture}.{key}"].contents()

    heads, kv_heads = number("attention.head_count"), number("attention.head_count_kv")
    tensors: dict[str, np.ndarray] = {}
    for tensor in reader.tensors:
        name, kind = tensor.name.rsplit(".", 1)
        weight = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if name.startswith("blk."):
            _, layer, part = name.split(".")
            if architecture == "llama" and part in ("attn_q", "attn_k"):
                weight = unpermute(weight, heads if part == "attn_q" else kv_heads)
            tensors[f"model.layers.{layer}.{BLOCK_NAMES[part]}.{kind}"] = weight
        elif name in TOP_NAMES:
            tensors[f"{TOP_NAMES[name]}.{kind}"] = weight
    config = DecoderConfig(
        vocab_size=len(tensors["model.embed_tokens.weight"]),
        width=number("embedding_length"),
        layers=number("block_count"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=number("embedding_length") // heads,
        ffn_width=number("feed_forward_length"),
        rope_theta=float(number("rope.freq_base")),
        norm_eps=float(number("attention.layer_norm_rms_epsilon")),
        qkv_bias=architecture == "qwen2",
        tied_head="lm_head.weight" not in tensors,
    )
    return config, params_from_tensors(config, tensors, str(file))
