"""Read and write Hugging Face folders (config.json, safetensors and tokenizer), bit for bit.

Both directions stream. Opening reads only headers, and saving holds one file's tensors at a time.
"""

import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from selfreg.policy.models.adapted import read_layer, stacks, unmerged
from selfreg.policy.models.families import config_from_hf, config_to_hf, text_tensor_name
from selfreg.policy.models.shape import DecoderConfig
from selfreg.policy.models.weights import Index, StoredModel, Tensor, arrange, place, weight_names

CONFIG, GENERATION = "config.json", "generation_config.json"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
FLOATS = ("F32", "BF16", "F16")
SHARD_BYTES = 2 << 30


def open_folder(folder: Path) -> StoredModel:
    """Open a Hugging Face folder without reading its weights yet.

    Args:
      folder: Holds config.json, and either model.safetensors or shards and their index.

    Raises:
      ValueError: A file is missing or damaged, or its content does not fit the decoder.
    """
    raw = _read_json(folder / CONFIG)
    config = config_from_hf(raw, str(folder))
    tensors: dict[str, Tensor] = {}
    for file in _weight_files(folder):
        tensors |= _headers(file, partial(text_tensor_name, raw))
    # Like transformers, prefer generation_config.json to config.json.
    says = _read_json(folder / GENERATION) if (folder / GENERATION).is_file() else raw
    stops = says.get("eos_token_id")
    return StoredModel(
        config=config,
        weights=arrange(config, tensors, str(folder)),
        stop_ids=tuple(stops if isinstance(stops, list) else [] if stops is None else [stops]),
    )


def load_folder(folder: Path) -> tuple[DecoderConfig, dict[str, Any]]:
    """Load the shape and float32 weights of a Hugging Face folder, whole on the first device.

    Raises:
      ValueError: As in `open_folder`.
    """
    stored = open_folder(folder)
    return stored.config, place(stored.weights)


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise ValueError(f"{file.parent} is not a Hugging Face folder: it has no {file.name}")
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is not JSON ({error})") from None


def _weight_files(folder: Path) -> list[Path]:
    if (folder / INDEX).is_file():
        files = [folder / n for n in sorted(set(_read_json(folder / INDEX)["weight_map"].values()))]
    else:
        files = [folder / SINGLE]
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        raise ValueError(f"{folder} has incomplete weights: it lacks {', '.join(absent)}")
    return files


def _headers(file: Path, text_name: Callable[[str], str | None]) -> dict[str, Tensor]:
    """Return a file's tensors by the name that `text_name` gives them, without the unnamed ones."""
    found, refused = {}, []
    try:
        with safe_open(file, framework="numpy") as opened:
            for stored in opened.keys():  # noqa: SIM118  # not a dict
                name, part = text_name(stored), opened.get_slice(stored)
                if name is None:
                    continue
                if part.get_dtype() not in FLOATS:
                    refused.append(f"{stored} is {part.get_dtype()}")
                found[name] = Tensor(tuple(part.get_shape()), partial(_read, file, stored))
    except SafetensorError as error:
        raise ValueError(
            f"{file} is damaged or not a safetensors file ({error}): download it again"
        ) from None
    if refused:
        raise ValueError(
            f"{file} is quantized ({'; '.join(refused[:8])}), but only {', '.join(FLOATS)} can be "
            "read"
        )
    return found


def _read(file: Path, name: str, index: Index) -> np.ndarray:
    # Open the file each time. If it stayed mapped, it would count as memory of this process.
    with safe_open(file, framework="numpy") as opened:
        return opened.get_slice(name)[index]


class _Piece(NamedTuple):
    """One tensor to write to a file: a weight, or one layer of a stack.

    Attributes:
      name: Hugging Face's name.
      parts: The weight alone, or a layer's `stacks`.
      layer: The layer's index. None for a weight outside the blocks.
    """

    name: str
    parts: tuple[Any, ...]
    layer: int | None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.parts[0].shape if self.layer is None else self.parts[0].shape[1:]


@partial(jax.jit, static_argnames=("alpha", "dtype"))
def _read_piece(
    parts: tuple[jax.Array, ...], layer: int | None, alpha: float, dtype: str
) -> jax.Array:
    return (parts[0] if layer is None else read_layer(parts, layer, alpha)).astype(dtype)


def save_folder(
    folder: Path,
    config: DecoderConfig,
    params: Any,
    tokenizer: Any,
    *,
    dtype: str = "float32",
    stop_ids: Sequence[int] = (),
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a folder that transformers, SGLang and `open_folder` can open.

    The folder is written under a temporary name in the same parent and renamed when it is complete.
    So a process that dies midway leaves no folder that looks like a model.

    Args:
      folder: Must be empty or not exist.
      config: The decoder's shape.
      params: The weights, sharded over devices or not, or `Adapted` weights. The host never holds
        more than one file's weights.
      tokenizer: A transformers tokenizer. Its chat template is written too.
      dtype: The dtype of the stored weights. float32 keeps every bit. bfloat16, which most folders
        and servers use, rounds to nearest even.
      stop_ids: The tokens that end a completion. Empty: the tokenizer's eos_token.
      shard_bytes: The maximum size of a file, unless a single tensor is larger.

    Raises:
      ValueError: The folder is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is not empty: remove it or name another folder")
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
        part = Path(scratch) / folder.name
        part.mkdir()
        save_weights(part, config, params, dtype, shard_bytes)
        stops = list(stop_ids) or [tokenizer.eos_token_id]
        special = {
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": stops if len(stops) > 1 else stops[0],
            "pad_token_id": tokenizer.pad_token_id,
        }
        _write_json(part / CONFIG, config_to_hf(config) | {"dtype": dtype} | special)
        _write_json(part / GENERATION, special)
        _save_tokenizer(part, tokenizer)
        os.replace(part, folder)


def _save_tokenizer(folder: Path, tokenizer: Any) -> None:
    tokenizer.save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    if not file.is_file():
        return
    # Servers may still run transformers 4, which does not know version 5's values for these two
    # keys. Version 5 reads both forms.
    said = _read_json(file)
    if said.get("tokenizer_class") == "TokenizersBackend":
        said["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(said.get("extra_special_tokens"), list):
        said["additional_special_tokens"] = said.pop("extra_special_tokens")
    _write_json(file, said)


def _write_json(file: Path, values: dict[str, Any]) -> None:
    said = {key: value for key, value in values.items() if value is not None}
    file.write_text(json.dumps(said, indent=2) + "\n")


def save_weights(
    folder: Path, config: DecoderConfig, params: Any, dtype: str, shard_bytes: int
) -> None:
    """Write only the weights, as `save_folder` does, into an existing folder."""
    width = jax.numpy.dtype(dtype).itemsize
    files = _files(_pieces(config, params), shard_bytes // width)
    placed: dict[str, str] = {}
    for number, pieces in enumerate(files, 1):
        file = SINGLE if len(files) == 1 else f"model-{number:05d}-of-{len(files):05d}.safetensors"
        _save_file(folder / file, pieces, unmerged(params)[1], dtype)
        placed |= dict.fromkeys((piece.name for piece in pieces), file)
    if len(files) > 1:
        total = width * sum(math.prod(piece.shape) for pieces in files for piece in pieces)
        _write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": placed})


def _save_file(file: Path, pieces: Iterable[_Piece], alpha: float, dtype: str) -> None:
    # safetensors writes buffers as they are in memory, so they must be contiguous.
    tensors = {
        p.name: np.ascontiguousarray(_read_piece(p.parts, p.layer, alpha, dtype)) for p in pieces
    }
    save_file(tensors, file, metadata={"format": "pt"})


def _pieces(config: DecoderConfig, params: Any) -> list[_Piece]:
    """Return every tensor in the order of the forward pass. This keeps layers together in files."""
    names = weight_names(config)
    blocks = [
        _Piece(each[layer], stacks(params, own), layer)
        for layer in range(config.layers)
        for own, each in names["blocks"].items()
    ]
    last = [own for own in names if own not in ("embedding", "blocks")]
    whole, _ = unmerged(params)
    first, *rest = (_Piece(names[own], (whole[own],), None) for own in ("embedding", *last))
    return [first, *blocks, *rest]


def _files(pieces: Iterable[_Piece], room: int) -> list[list[_Piece]]:
    """Assign the pieces, in order, to files of up to `room` elements each."""
    files: list[list[_Piece]] = [[]]
    used = 0
    for piece in pieces:
        size = math.prod(piece.shape)
        if files[-1] and used + size > room:
            files.append([])
            used = 0
        files[-1].append(piece)
        used += size
    return files
