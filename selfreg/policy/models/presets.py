"""Shapes of known models by their names on the Hugging Face hub, for use without their weights."""

import json
from pathlib import Path

from selfreg.policy.models.families import config_from_hf
from selfreg.policy.models.gguf import open_gguf
from selfreg.policy.models.shape import DecoderConfig

HERE = Path(__file__).parent
# The part of each model's config.json that describes its shape.
PRESETS = HERE / "presets.json"
SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"


def shape_of(path: str) -> DecoderConfig:
    """Return the shape of a policy, from its name, its config.json or the header of its .gguf file.

    Args:
      path: As `config.model.path`, or a known model's name on the Hugging Face hub.

    Raises:
      ValueError: The path gives no shape. The message lists the known names.
    """
    known = json.loads(PRESETS.read_text())
    file = HERE / "tiny" if path == "tiny" else Path(path)
    if file.suffix == ".gguf" and file.is_file():
        return open_gguf(file).config
    if (file / "config.json").is_file():
        return config_from_hf(json.loads((file / "config.json").read_text()), str(file))
    name = SMOLLM2 if path == "smollm2" else path
    if name not in known:
        raise ValueError(
            f"config.model.path={path!r} is neither a folder with a config.json, nor a .gguf file, "
            f"nor a known model: tiny, smollm2, {', '.join(known)}"
        )
    return config_from_hf(known[name], name)
