"""The common parts of the paper's waves: models, seeds, the protocol, and its tiny variant.

The paper (sections 5.1, 5.6 and appendices F and H) specifies 16 samples of one problem per step,
temperature 0.7, lr 1e-6, no KL, rewards {0, 1}, and 50 training and 30 held-out problems per
campaign. For GRPO it specifies centered scores, no importance ratio and 4 alternatives per token.

The paper leaves the following open, and this file chooses: Adam's moments and clipping, the weights
of tokens, the prompt, the lengths, the precision and the problems. It is also open whether centered
scores are divided by the group's standard deviation: the text says "normalized", but the override
string only centers. The paper's 70,000 problems are from SPOJ and Codeforces. Here they are
HumanEval's, and for C++ the procedural ones.

Every wave also has a variant `tiny` with the same chains, conditions, seeds and shared campaigns.
It uses the embedded policy, procedural problems and the collapse-prone setting of configs/tiny.py.
Its steps are so few and its panels so small that a whole wave takes minutes on 2 CPU cores. It
shows that a wave runs, but does not reproduce the paper's measurements.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from selfreg.run.config import default
from selfreg.run.wave import Chain, place_of

MODELS = {
    "3b": "Qwen/Qwen2.5-3B-Instruct",
    "7b": "Qwen/Qwen2.5-7B-Instruct",
    "32b": "Qwen/Qwen2.5-32B-Instruct",
    "gemma": "google/gemma-3-4b-it",
}
FIVE_SEEDS, THREE_SEEDS = (7, 11, 17, 23, 42), (17, 23, 42)
TINY = "tiny"
CPP = {"problems.train": "procedural:cpp_train", "problems.held_out": "procedural:cpp"}
# Panels of the paper's other languages for Tables 14 and 15.
CPP_PANEL, OOD_PANEL = "cpp=procedural:cpp", "ood=procedural:ood"


def configure(
    wave: str,
    variant: str,
    *,
    scales: Sequence[str] = ("7b",),
    campaigns: int = 10,
    steps: int = 20,
    tiny_steps: int = 6,
) -> ConfigDict:
    """Return the config that the chains of a wave share.

    Args:
      wave: The wave's name, for config.name.
      variant: One of `scales`, "" for the first of them, or "tiny".
      scales: Keys of MODELS.
      campaigns: The number of campaigns in a chain.
      steps: The number of updates per campaign.
      tiny_steps: The number of updates per campaign in the variant `tiny`.

    Raises:
      ValueError: The variant is unknown.
    """
    allowed = (*scales, TINY)
    if variant and variant not in allowed:
        file = f"configs/{wave}.py"
        raise ValueError(f"{file}:{variant}: the variant must be one of {', '.join(allowed)}")
    config = default()
    config.name = name_of(wave, variant or scales[0], scales)
    config.campaigns = campaigns
    config.control_metric = "pass_rate"
    if variant == TINY:
        _make_tiny(config, tiny_steps)
        return config
    config.campaign_budget_steps = steps
    config.problems.train = "humaneval"
    config.problems.held_out = ""
    config.problems.train_count = 50
    config.problems.panel_count = 30
    config.problems.report_count = 30
    config.model.path = MODELS[variant or scales[0]]
    config.model.prompt = "chat"
    config.model.dtype = "bfloat16"
    config.model.remat = "layer"
    config.rollout.max_prompt_tokens = 1024
    config.rollout.max_new_tokens = 1024
    config.rollout.max_sequences = 128
    config.mesh.fsdp = 8
    config.evaluation.every_steps = 10
    config.evaluation.report_samples = 4
    return config


def _make_tiny(config: ConfigDict, steps: int) -> None:
    config.campaign_budget_steps = steps
    config.problems.train_count = 50
    config.problems.panel_count = 16
    config.problems.report_count = 16
    config.learn.reward_coding = "minus_one_one"
    config.optimizer.lr = 8e-4
    config.evaluation.every_steps = 20
    config.evaluation.panel_samples = 2
    config.evaluation.report_samples = 2


def use_grpo(config: ConfigDict) -> None:
    """Set the update rule of the paper's appendix H."""
    config.learn.algorithm = "grpo"
    config.rollout.num_alter_tokens = 4


def name_of(wave: str, variant: str, scales: Sequence[str] = ("7b",), scale: str = "") -> str:
    """Return config.name: the wave, its scale if there are several, and "tiny" for that variant."""
    parts = [wave]
    if len(scales) > 1 and (scale or variant != TINY):
        parts.append(scale or variant)
    return "-".join([*parts, TINY] if variant == TINY else parts)


def chains(
    wave: str,
    variant: str,
    conditions: Sequence[str],
    seeds: Sequence[int],
    *,
    scales: Sequence[str] = ("7b",),
    suffix: str = "",
    changes: Mapping[str, Any] | None = None,
    sharing: Sequence[str] = (),
) -> tuple[Chain, ...]:
    """Return a chain for every scale, condition and seed.

    Args:
      wave: As in `configure`.
      variant: As in `configure`. "" and "tiny" give all scales.
      conditions: The chains' conditions.
      seeds: The chains' seeds.
      scales: As in `configure`.
      suffix: A suffix of the chains' names.
      changes: Additional keys that the chains set.
      sharing: Conditions that take their first campaign from the first condition's chain of the
        same scale and seed.
    """
    made = []
    for scale in scales if variant in ("", TINY) else (variant,):
        own = TINY if variant == TINY else scale if len(scales) > 1 else ""
        name = name_of(wave, own or scale, scales, scale) + suffix
        made += [
            Chain(
                name, condition, seed, own, dict(changes or {}),
                shares=place_of(name, conditions[0], seed) if condition in sharing else "",
            )
            for condition in conditions
            for seed in seeds
        ]  # fmt: skip
    return tuple(made)
