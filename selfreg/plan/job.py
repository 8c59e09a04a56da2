"""What a plan needs of a config, as numbers: the only place of the planner that reads keys."""

import math
from dataclasses import dataclass
from typing import Any

from selfreg.models.decoder import DecoderConfig

BYTES = {"float32": 4, "bfloat16": 2}
# Of both moments a weight; int8 has a float32 scale for every 128 elements of each.
MOMENT_BYTES = {"float32": 8.0, "bfloat16": 4.0, "int8": 2 + 2 * 4 / 128}


@dataclass(frozen=True, slots=True)
class Layout:
    """What one microbatch of an update runs through the layers, padding included.

    Attributes:
      rows: That devices may split among them.
      tokens: Of all rows, shared prompts once.
      prefix: Those of the tokens whose keys and values rows are handed, not computing them.
      keys: Keys that the rows see, shared prompts once a row.
      scores: Pairs of a query and a key that the plain attention holds, a head.
      targets: Tokens whose logprobs are wanted.
      count: Microbatches in a step.
    """

    rows: int
    tokens: int
    prefix: int
    keys: int
    scores: int
    targets: int
    count: int


@dataclass(frozen=True, slots=True)
class Draws:
    """Completions drawn in a row: `problems` x `group` of them, `at_once` rows at a time."""

    problems: int
    group: int
    at_once: int


@dataclass(frozen=True, slots=True)
class Job:
    """One config as the planner sees it. Lengths are those planned for, in tokens.

    Attributes:
      dtype_bytes: Of what layers compute in.
      activation_bytes: Of what is kept of it.
      fused_attention: No scores are held.
      moment_bytes: Of both moments a trained weight.
      offload: Moments lie in the host's memory between updates.
      lora_rank: 0: all weights learn.
      panels: The panel's draws a campaign, and the report panel's.
      evaluations: Times that the panel is measured in a campaign.
    """

    decoder: DecoderConfig
    dtype_bytes: int
    activation_bytes: int
    fused_attention: bool
    remat: str
    moment_bytes: float
    offload: bool
    lora_rank: int
    chunk_tokens: int
    uses_kl: bool
    prompt: int
    completion: int
    layout: Layout
    train: Draws
    panel: Draws
    report: Draws
    evaluations: int
    steps: int
    campaigns: int


def make_job(
    config: Any, decoder: DecoderConfig, *, gpu: bool, lengths: tuple[int, int] | None = None
) -> Job:
    """Read a resolved config.

    Args:
      config: The config.
      decoder: The shape of its policy.
      gpu: The devices are GPUs, on which bfloat16 attention is cuDNN's.
      lengths: Tokens of prompts and completions; None: the most that the config allows.
    """
    rollout, evaluation = config.rollout, config.evaluation
    prompt, completion = lengths or (rollout.max_prompt_tokens, rollout.max_new_tokens)
    attention = config.model.attention
    fused = attention == "cudnn" or (
        attention == "auto" and gpu and config.model.dtype == "bfloat16"
    )

    def draws(problems: int, group: int) -> Draws:
        turn = max(1, rollout.max_sequences // group)
        return Draws(problems, group, min(problems, turn) * group)

    steps = config.campaign_budget_steps
    return Job(
        decoder=decoder,
        dtype_bytes=BYTES[config.model.dtype],
        # XLA's CPU backend widens bfloat16 to compute, and keeps what it widened.
        activation_bytes=BYTES[config.model.dtype] if gpu else 4,
        fused_attention=fused,
        remat=config.model.remat,
        moment_bytes=MOMENT_BYTES[config.optimizer.state_dtype],
        offload=config.optimizer.offload,
        lora_rank=config.model.lora_rank,
        chunk_tokens=config.learn.logprob_chunk_tokens,
        uses_kl=config.learn.kl_coef > 0,
        prompt=prompt,
        completion=completion,
        layout=_layout(config, prompt, completion),
        train=draws(rollout.problems_per_step, rollout.group_size),
        panel=draws(config.problems.panel_count, evaluation.panel_samples),
        report=draws(config.problems.report_count, evaluation.report_samples),
        evaluations=math.ceil(steps / evaluation.every_steps) + 1,
        steps=steps,
        campaigns=config.campaigns,
    )


def _layout(config: Any, prompt: int, completion: int) -> Layout:
    """Rows of completions, all as long as planned for, beside their groups' prompts."""
    learn, group = config.learn, config.rollout.group_size
    batch = config.rollout.problems_per_step * group
    if "row_tokens" in learn:  # rows of fixed widths, each with completions of one prompt
        width = max((*learn.row_tokens, completion))
        total = config.rollout.problems_per_step * math.ceil(group / (width // completion))
        rows = min(learn.microbatch_rows or total, total)
        prompts = math.ceil(rows * config.rollout.problems_per_step / total)
    else:
        width, total = completion, batch
        rows = learn.microbatch_sequences or batch
        prompts = rows // min(learn.microbatch_sequences or group, group)
    return Layout(
        rows=rows,
        tokens=prompts * prompt + rows * width,
        prefix=prompts * prompt,
        keys=prompts * prompt + rows * (prompt + width),
        scores=prompts * prompt**2 + rows * width * (prompt + width),
        targets=rows * width,
        count=math.ceil(total / rows),
    )
