"""Read GGUF files: tokenizers, and weights with Hugging Face's names, dequantized on reading.

The `gguf` package reads and dequantizes with NumPy alone. For Llama models, llama.cpp stores the
rows of q and k interleaved for its own rotary embedding. This module restores their order.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from selfreg.policy.models.shape import DecoderConfig
from selfreg.policy.models.weights import Index, StoredModel, Tensor, arrange

NEEDED = (
    "reading a GGUF file needs the package gguf, and reading its tokenizer needs transformers 5.18 "
    "or later: pip install selfreg[smollm2]"
)
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
    """Reorder the rows of a q or k weight from llama.cpp's interleaved pairs to halves.

    Args:
      rows: [heads * head_dim, ...].
      heads: The number of heads in the rows.
    """
    half = rows.shape[0] // heads // 2
    return rows.reshape(heads, half, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def open_gguf(file: Path) -> StoredModel:
    """Open a Llama or Qwen2 GGUF file, without dequantizing its weights yet.

    Raises:
      ValueError: The file is damaged, has another architecture, an option that the decoder lacks or
        an unknown quantization, or does not hold the decoder's weights.
      ImportError: The `gguf` package is not installed. The message names the extra.
    """
    try:
        from gguf import GGUFReader
        from gguf.quants import dequantize
    except ImportError as error:
        raise ImportError(NEEDED) from error
    try:
        reader = GGUFReader(file)
    except (ValueError, IndexError) as error:
        raise ValueError(f"{file} is damaged or not a GGUF file ({error})") from None
    architecture = reader.fields["general.architecture"].contents()
    if architecture not in ("llama", "qwen2"):
        raise ValueError(f"{file}: architecture {architecture!r} is neither llama nor qwen2")

    def number(key: str, default: Any = None) -> Any:
        field = reader.fields.get(f"{architecture}.{key}")
        return default if field is None else field.contents()

    if number("rope.scaling.type", "none") != "none":
        kind = number("rope.scaling.type")
        raise ValueError(f"{file}: rope.scaling.type={kind!r} is not supported, only 'none'")
    heads, kv_heads = number("attention.head_count"), number("attention.head_count_kv")
    tensors: dict[str, Tensor] = {}
    for stored in reader.tensors:
        shape = tuple(int(size) for size in reversed(stored.shape))
        rows = np.arange(shape[0])
        _, _, part = stored.name.rpartition(".attn_")
        if architecture == "llama" and part.split(".")[0] in ("q", "k"):
            rows = unpermute(rows, heads if part[0] == "q" else kv_heads)
        undo = partial(dequantize, qtype=stored.tensor_type)
        try:
            undo(stored.data[:1])
        except NotImplementedError as error:
            raise ValueError(f"{file}: {stored.name} cannot be read: {error}") from None
        tensors[_hf_name(stored.name)] = Tensor(shape, partial(_read, stored.data, rows, undo))
    width = number("embedding_length")
    config = DecoderConfig(
        vocab_size=tensors["model.embed_tokens.weight"].shape[0],
        width=width,
        layers=number("block_count"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=number("attention.key_length", width // heads),
        ffn_width=number("feed_forward_length"),
        rope_theta=float(number("rope.freq_base", 10_000.0)),
        norm_eps=float(number("attention.layer_norm_rms_epsilon")),
        qkv_bias=architecture == "qwen2",
        tied_head="lm_head.weight" not in tensors,
        max_positions=number("context_length"),
    )
    ends = [reader.fields.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot")]
    return StoredModel(
        config=config,
        weights=arrange(config, tensors, str(file)),
        stop_ids=tuple(int(field.contents()) for field in ends if field is not None),
    )


def read_tokenizer(file: Path) -> PreTrainedTokenizerFast:
    """Read the tokenizer inside a GGUF file with transformers' conversion.

    transformers' own GGUF reader is not used, because it needs torch.

    Raises:
      ValueError: The file holds no tokenizer.
      ImportError: As in `open_gguf`, or transformers is older than 5.18.
    """
    try:
        from gguf import GGUFReader
        from transformers.integrations.gguf import GGUF_TOKENIZER_MAPPING, convert_gguf_tokenizer
    except ImportError as error:
        raise ImportError(NEEDED) from error
    fields = GGUFReader(file).fields

    def stored(part: str) -> dict[str, Any]:
        names = {f"tokenizer.{key}": name for key, name in GGUF_TOKENIZER_MAPPING[part].items()}
        return {name: fields[key].contents() for key, name in names.items() if key in fields}

    vocabulary, options = stored("tokenizer"), stored("tokenizer_config")
    if "tokens" not in vocabulary:
        raise ValueError(f"{file} holds no tokenizer")
    if vocabulary.get("tokenizer_type") == "llama":  # llama.cpp's default if the file has no value
        options.setdefault("add_bos_token", True)
    for name in ("bos_token", "eos_token", "unk_token", "pad_token"):
        if (token_id := vocabulary.get(f"{name}_id")) is not None:
            options[name] = vocabulary["tokens"][token_id]
    backend, _ = convert_gguf_tokenizer(fields["general.architecture"].contents(), vocabulary)
    return PreTrainedTokenizerFast(tokenizer_object=backend, **options)


def _hf_name(name: str) -> str:
    """Return Hugging Face's name of a tensor.

    A tensor without one keeps its GGUF name, and `arrange` then refuses it by that name.
    """
    stem, _, kind = name.rpartition(".")
    if stem in TOP_NAMES:
        return f"{TOP_NAMES[stem]}.{kind}"
    block, _, part = stem.rpartition(".")
    if part in BLOCK_NAMES and block.startswith("blk."):
        return f"model.layers.{block.removeprefix('blk.')}.{BLOCK_NAMES[part]}.{kind}"
    return name


def _read(
    data: np.ndarray, rows: np.ndarray, undo: Callable[[np.ndarray], np.ndarray], index: Index
) -> np.ndarray:
    """Dequantize only the requested rows. `rows` maps each row to where it is stored."""
    chosen = rows[index[0]]
    return undo(data)[chosen] if len(index) == 1 else undo(data[chosen])[:, index[1]]
