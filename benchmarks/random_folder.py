"""Write a Hugging Face folder with random weights of a known model's shape.

    python -m benchmarks.random_folder --model=Qwen/Qwen2.5-3B-Instruct --out=/tmp/random-3b

The folder replaces a model that cannot be downloaded. All sizes, shapes, names and dtypes equal the
real model's. So loading, sampling, training and exporting it cost the same. Its text is random.
"""

import json
import math
from pathlib import Path

import ml_dtypes
import numpy as np
from absl import app, flags
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from selfreg.policy.models.families import config_to_hf
from selfreg.policy.models.presets import shape_of
from selfreg.policy.models.weights import weight_names, weight_shapes

_MODEL = flags.DEFINE_string("model", "Qwen/Qwen2.5-3B-Instruct", "A known model's name.")
_OUT = flags.DEFINE_string("out", None, "The folder to create.", required=True)
END = "<|im_end|>"
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def main(_: list[str]) -> None:
    """Write the folder, with one layer or one other weight per file."""
    folder, config = Path(_OUT.value), shape_of(_MODEL.value)
    folder.mkdir(parents=True)
    shapes, names = weight_shapes(config), weight_names(config)
    generator = np.random.default_rng(0)
    placed, total = {}, 0

    def write(number: int, tensors: dict[str, tuple[int, ...]]) -> None:
        nonlocal total
        file = f"model-{number:05d}.safetensors"
        save_file({n: _random(generator, n, s) for n, s in tensors.items()}, folder / file)
        placed.update(dict.fromkeys(tensors, file))
        total += 2 * sum(map(math.prod, tensors.values()))

    for layer in range(config.layers):
        blocks = names["blocks"].items()
        write(layer, {each[layer]: shapes["blocks"][own].shape[1:] for own, each in blocks})
    rest = [own for own in names if own != "blocks"]
    for number, own in enumerate(rest, config.layers):
        write(number, {names[own]: shapes[own].shape})
    index = {"metadata": {"total_size": total}, "weight_map": placed}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    tokenizer = _tokenizer(config.vocab_size)
    tokenizer.save_pretrained(folder)
    said = config_to_hf(config) | {"dtype": "bfloat16", "eos_token_id": tokenizer.eos_token_id}
    (folder / "config.json").write_text(json.dumps(said, indent=2))
    print(f"{folder}: {total / 2e9:.2f}e9 weights, {total / 1e9:.2f} GB")


def _random(generator: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return norms of 1, biases of 0, or random matrices that preserve the scale of their input."""
    if len(shape) == 1:
        return np.full(shape, float("norm" in name), ml_dtypes.bfloat16)
    numbers = generator.standard_normal(shape, np.float32)
    return (numbers / np.float32(math.sqrt(shape[-1]))).astype(ml_dtypes.bfloat16)


def _tokenizer(size: int) -> PreTrainedTokenizerFast:
    """Make a BPE tokenizer with every byte, and enough merges to fill the vocabulary."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {byte: number for number, byte in enumerate(alphabet)}
    merges: list[tuple[str, str]] = []
    parts = [*alphabet]
    pairs = ((left, right) for left in parts for right in alphabet)
    while len(vocabulary) < size - 1:
        left, right = next(pairs)
        if left + right not in vocabulary:
            vocabulary[left + right] = len(vocabulary)
            merges.append((left, right))
            parts.append(left + right)
    tokenizer = Tokenizer(BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END)
    fast.chat_template = CHAT
    return fast


if __name__ == "__main__":
    app.run(main)
