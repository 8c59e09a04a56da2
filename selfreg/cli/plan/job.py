"""What a plan needs of a config, as numbers: the only place of the planner that reads keys."""

import math
from dataclasses import dataclass
from typing import Any

import jax

from selfreg.policy.learn.packing import Packing, make_packing
from selfreg.policy.models.decoder import DecoderConfig
from selfreg.policy.rollout.jax_engine import batch_sizes, turns
from selfreg.policy.rollout.lanes import width
from selfreg.run.algorithm import find_algorithm

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True)
class Draws:
    """Completions drawn in a row.

    Attributes:
      problems: How many.
      group: Completions of each.
      turn: Rows of a turn.
      beside: Turns that are served beside each other.
    """

    problems: int
    group: int
    turn: int
    beside: int

    @property
    def at_once(self) -> int:
        """Rows decoded at a time."""
        return self.turn * self.beside

    def prompts(self, parts: int) -> float:
        """Prompts that one of so many parts reads at a time: its own, or all if they do not divide.

        Turns that are served beside each other seldom read theirs at the same moment, but can.
        """
        count = self.turn // self.group
        return self.beside * (count / parts if count % parts == 0 else count)

    def held(self, parts: int, *, packed: bool = False) -> tuple[float, float]:
        """Rows decoded at once, and caches of prompts that they share: of one of so many parts.

        Args:
          parts: Into which devices split the rows.
          packed: Of the next smaller batch, into which a turn is packed; none where there is none.
            It takes milliseconds: turns beside it are not packed at that moment.
        """
        parts = parts if self.turn % parts == 0 else 1
        _, *smaller = batch_sizes(self.turn, parts)
        if packed and not smaller:
            return 0.0, 0.0
        rows, count = (smaller[0], 1) if packed else (self.turn, self.beside)
        held = count * rows / parts
        return held, held / width(rows, self.turn, self.group, parts)


@dataclass(frozen=True, slots=True)
class Job:
    """One config as the planner sees it. Lengths are in tokens.

    Attributes:
      gpu: The devices are GPUs.
      dtype_bytes: Of what layers compute in.
      activation_bytes: Of what is kept of it.
      fused_attention: No scores are held.
      moments: Their type, as config.optimizer.state_dtype.
      lora_rank: 0: all weights learn.
      scorings: Forward passes a step that only score completions: of the reference policy for a
        KL penalty, and of both policies where the algorithm needs that, as DPO does.
      holds_reference: A reference policy's weights are held.
      averages: The mean of the weights over updates is held.
      uses_ewc: The campaign's start and its Fisher information are held.
      served: SGLang servers draw, with memory of their own.
      overlap: The next step's completions are drawn while weights learn.
      updates_per_draw: Steps that learn from the same completions.
      row_tokens: As config.learn.row_tokens.
      microbatch_rows: As config.learn.microbatch_rows.
      max_new_tokens: Of a completion, which programs and caches are made for.
      prompt: Of each prompt, planned for.
      completion: Of each completion, planned for.
      panels: The panel's draws a campaign, and the report panel's.
      evaluations: Times that the panel is measured in a campaign.
    """

    decoder: DecoderConfig
    gpu: bool
    dtype_bytes: int
    activation_bytes: int
    fused_attention: bool
    remat: str
    moments: str
    lora_rank: int
    chunk_tokens: int
    scorings: int
    holds_reference: bool
    averages: bool
    uses_ewc: bool
    served: bool
    overlap: bool
    updates_per_draw: int
    row_tokens: tuple[int, ...]
    microbatch_rows: int
    max_new_tokens: int
    prompt: int
    completion: int
    train: Draws
    panel: Draws
    report: Draws
    evaluations: int
    steps: int
    campaigns: int


def make_job(
    config: Any,
    decoder: DecoderConfig,
    *,
    gpu: bool,
    largest_head: int = 256,
    threads: int = 0,
    lengths: tuple[int, int] | None = None,
) -> Job:
    """Read a resolved config.

    Args:
      config: The config.
      decoder: The shape of its policy.
      gpu: The devices are GPUs, on which bfloat16 attention is cuDNN's.
      largest_head: Elements of a head that cuDNN's attention takes there.
      threads: As selfreg.policy.rollout.jax_engine.decoding_threads.
      lengths: Tokens of prompts and completions; None: the most that the config allows.

    Raises:
      ValueError: Completions shall be longer than the config allows.
    """
    rollout, evaluation = config.rollout, config.evaluation
    prompt, completion = lengths or (rollout.max_prompt_tokens, rollout.max_new_tokens)
    if completion > rollout.max_new_tokens:
        raise ValueError(
            f"completions of {completion} tokens are more than "
            f"config.rollout.max_new_tokens={rollout.max_new_tokens}"
        )
    dtype_bytes = BYTES[config.model.dtype]
    attention = config.model.attention
    fused = attention == "cudnn" or (
        attention == "auto"
        and gpu
        and config.model.dtype == "bfloat16"
        and decoder.head_dim <= largest_head
    )

    def draws(problems: int, group: int) -> Draws:
        turn, beside = turns(rollout.max_sequences, group, threads)
        # A turn is filled up to one of few sizes, which have a program.
        size = min(turn, 1 << (problems - 1).bit_length())
        return Draws(problems, group, size * group, min(beside, -(-problems // turn)))

    steps, learn = config.campaign_budget_steps, config.learn
    algorithm = find_algorithm(learn.algorithm)
    uses_kl = any(learn.kl_schedule or (learn.kl_coef,))
    holds_reference = algorithm.needs_reference or uses_kl
    return Job(
        decoder=decoder,
        gpu=gpu,
        dtype_bytes=dtype_bytes,
        # Before jax 0.11 XLA's CPU backend widened bfloat16 to compute, and kept what it widened.
        activation_bytes=4 if not gpu and jax.__version_info__ < (0, 11) else dtype_bytes,
        fused_attention=fused,
        remat=config.model.remat,
        moments=config.optimizer.state_dtype,
        lora_rank=config.model.lora_rank,
        chunk_tokens=learn.logprob_chunk_tokens,
        scorings=algorithm.needs_own_logprobs + holds_reference,
        holds_reference=holds_reference,
        averages=config.optimizer.average_decay > 0,
        uses_ewc=learn.ewc_coef > 0,
        served=rollout.engine == "sglang",
        overlap=rollout.overlap,
        updates_per_draw=learn.updates_per_batch,
        row_tokens=tuple(learn.row_tokens),
        microbatch_rows=learn.microbatch_rows,
        max_new_tokens=rollout.max_new_tokens,
        prompt=prompt,
        completion=completion,
        train=draws(rollout.problems_per_step, rollout.group_size),
        panel=draws(config.problems.panel_count, evaluation.panel_samples),
        report=draws(config.problems.report_count, evaluation.report_samples),
        evaluations=math.ceil(steps / evaluation.every_steps) + 1,
        steps=steps,
        campaigns=config.campaigns,
    )


def packing_of(job: Job, devices: int) -> Packing:
    """The rows that the job's update is compiled for where so many devices split them.

    Raises:
      ValueError: They cannot.
    """
    completions = job.train.problems * job.train.group
    return make_packing(
        job.row_tokens, job.microbatch_rows, job.max_new_tokens, completions, devices
    )
