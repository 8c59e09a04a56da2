"""Jobs whose plans are compared with the compiler: models, meshes, and settings that matter."""

from dataclasses import dataclass, field
from typing import Any

from configs import w17
from selfreg.cli.plan.weights import Split
from selfreg.policy.models.decoder import DecoderConfig
from selfreg.policy.models.presets import shape_of
from selfreg.run.validate import resolve

MODELS = {
    "0.5b": "Qwen/Qwen2.5-0.5B-Instruct",
    "3b": "Qwen/Qwen2.5-3B-Instruct",
    "7b": "Qwen/Qwen2.5-7B-Instruct",
    "gemma": "google/gemma-3-4b-it",
    "32b": "Qwen/Qwen2.5-32B-Instruct",
}
DECODE = ("prefill", "segment")
# All rows have one width, except in the case `widths`, because each width compiles its own loop.
SHORT = {
    "rollout.max_prompt_tokens": 512,
    "rollout.max_new_tokens": 1024,
    "learn.row_tokens": (1024,),
}
LONG = {
    "rollout.max_prompt_tokens": 1024,
    "rollout.max_new_tokens": 4096,
    "learn.row_tokens": (4096,),
}
LORA = {"model.lora_rank": 32}
KL = {"learn.kl_schedule": (0.01,)}


@dataclass(frozen=True)
class Case:
    """One job on one mesh.

    Attributes:
      model: A key of MODELS.
      device: A key of selfreg.cli.plan.targets.TARGETS.
      split: The mesh.
      changes: Changes to W17's config, by key.
      programs: The programs to compile.
      words: The rest of the case's name: the keys of CHANGES that it applies.
    """

    model: str
    device: str
    split: Split
    changes: dict[str, Any] = field(default_factory=dict)
    programs: tuple[str, ...] = ("update",)
    words: str = ""

    @property
    def name(self) -> str:
        """The short name, for a command line."""
        mesh = "x".join(map(str, self.split))
        return "-".join(part for part in (self.model, mesh, self.words.replace(" ", "-")) if part)

    @property
    def title(self) -> str:
        """The title, for a table."""
        data, fsdp, tensor = self.split
        axes = {"data": data, "fsdp": fsdp, "tensor": tensor}
        mesh = " x ".join(f"{axis} {size}" for axis, size in axes.items() if size > 1)
        on = f"{data * fsdp * tensor} {self.device}" + (f", {mesh}" if mesh else "")
        return ", ".join(part for part in (self.model, on, self.words) if part)


def _case(model: str, device: str, mesh: str, words: str = "", *programs: str) -> Case:
    changes: dict[str, Any] = dict(SHORT)
    for word in words.split():
        changes |= CHANGES[word]
    split = Split(*map(int, mesh.split("x")))
    return Case(model, device, split, changes, programs or ("update",), words)


CHANGES: dict[str, dict[str, Any]] = {
    "none": {"model.remat": "none"},
    "dots": {"model.remat": "dots"},
    "long": LONG,
    "widths": {"learn.row_tokens": ()},
    "bfloat16": {"optimizer.state_dtype": "bfloat16"},
    "int8": {"optimizer.state_dtype": "int8"},
    "LoRA": LORA,
    "KL": KL,
    "EWC": {"learn.ewc_coef": 1.0},
}
BOTH = ("update", *DECODE)
CASES: dict[str, Case] = {
    case.name: case
    for case in (
        _case("0.5b", "H100", "1x1x1", "", *BOTH),
        _case("0.5b", "L40S", "1x1x1", "dots", *BOTH),
        _case("0.5b", "H100", "1x1x1", "none", *BOTH),
        _case("0.5b", "RTX4090", "1x1x1", "int8", *BOTH),
        _case("0.5b", "A100-80G", "1x8x1", "long bfloat16", *BOTH),
        _case("3b", "H200", "1x1x1", "", *BOTH),
        _case("3b", "H200", "1x1x1", "long bfloat16", *BOTH),
        _case("3b", "H200", "1x1x1", "int8", *BOTH),
        _case("3b", "H100", "1x8x1", "none", *BOTH),
        _case("3b", "H100", "1x8x1", "long dots", *BOTH),
        _case("3b", "H100", "1x8x1", "KL", *BOTH),
        _case("3b", "H100", "1x8x1", "EWC", *BOTH),
        _case("3b", "H100", "2x8x1", "", *BOTH),
        _case("3b", "H100", "1x4x2", "dots", *BOTH),
        _case("7b", "H100", "1x8x1", "", *BOTH, "unstack"),
        _case("7b", "H100", "1x8x1", "widths", *BOTH),
        _case("7b", "H100", "1x8x1", "long", *BOTH),
        _case("7b", "H100", "1x4x2", "", *BOTH),
        _case("7b", "H100", "2x8x1", "", *BOTH),
        _case("7b", "H100", "1x8x1", "dots bfloat16", *BOTH),
        _case("7b", "H100", "2x4x2", "long int8", *BOTH),
        _case("7b", "H200", "1x1x1", "LoRA", *BOTH, "unstack"),
        _case("7b", "H100", "1x8x1", "LoRA KL", *BOTH),
        _case("gemma", "H100", "1x8x1", "", *BOTH),
        _case("gemma", "H100", "2x4x2", "bfloat16"),
        _case("gemma", "H200", "1x1x1", "LoRA", *BOTH),
        _case("32b", "H100", "1x8x1", "LoRA", *BOTH),
        _case("32b", "H100", "1x4x2", "LoRA dots"),
    )
}


def configure(case: Case) -> tuple[Any, DecoderConfig]:
    """Return a case's resolved config, and the shape of its policy."""
    config = w17.get_config("7b")
    config.model.path = MODELS[case.model]
    config.update_from_flattened_dict(
        case.changes | {f"mesh.{axis}": size for axis, size in case.split._asdict().items()}
    )
    return resolve(config), shape_of(config.model.path)
