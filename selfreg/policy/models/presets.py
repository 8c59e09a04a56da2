"""Shapes of known models by their names on the hub, for when their weights are not here."""

import json
from pathlib import Path

from selfreg.policy.models.families import config_from_hf
from selfreg.policy.models.gguf import open_gguf
from selfreg.policy.models.shape import DecoderConfig

HERE = Path(__file__).parent
# The part of each model's config.json that says its shape.
PRESETS = HERE / "presets.json"
SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"


def shape_of(path: str) -> DecoderConfig:
    """The shape of a policy, without its weights where its name or its config.json says it.

    Args:
      path: As `config.model.path`, or the hub's name of a known model.

    Raises:
      ValueError: Nothing says the shape; the message lists the known names.
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
            f"config.model.path={path!r} is no folder with a config.json, no .gguf file, and none "
            f"of the known models: tiny, smollm2, {', '.join(known)}"
        )
    return config_from_hf(known[name], name)
