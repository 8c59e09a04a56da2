"""Read the numbers that a plan needs from a config. Only this module of the planner reads keys."""

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
    """The completions of one call of the engine, which it decodes in turns.

    Attributes:
      problems: The number of problems.
      group: Completions per problem.
      turn: Rows per turn.
      beside: Turns that are decoded in parallel.
    """

    problems: int
    group: int
    turn: int
    beside: int

    @property
    def at_once(self) -> int:
        """The number of rows that are decoded at the same time."""
        return self.turn * self.beside

    def prompts(self, parts: int) -> float:
        """Return the prompts that one of `parts` devices reads at the same time.

        A device reads its own share of the prompts, or all of them if `parts` does not divide them.
        Parallel turns seldom read their prompts at the same moment, but they can, so all of them
        count.
        """
        count = self.turn // self.group
        return self.beside * (count / parts if count % parts == 0 else count)

    def held(self, parts: int, *, packed: bool = False) -> tuple[float, float]:
        """Return the rows that one part decodes at once, and the prompt caches that they share.

        Args:
          parts: The number of parts into which devices split the rows.
          packed: Whether to count the next smaller batch, into which a turn is packed; (0, 0) if
            there is no smaller one. Packing takes milliseconds, so only one of the parallel turns
            is assumed to be packed at a time.
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
    """The part of a config that the planner needs. Lengths are in tokens.

    Attributes:
      decoder: The shape of the policy.
      gpu: Whether the devices are GPUs.
      dtype_bytes: Bytes of a number in the type that layers compute in.
      activation_bytes: Bytes of a number of a stored activation.
      fused_attention: Whether attention is fused, so that no scores are held.
      remat: As config.model.remat.
      moments: The type of the moments, as config.optimizer.state_dtype.
      lora_rank: The rank of LoRA's adapters; 0 if all weights are trained.
      chunk_tokens: As config.learn.logprob_chunk_tokens.
      scorings: Forward passes per step that only score completions: one of the reference policy for
        a KL penalty, and those of both policies if the algorithm needs them, as DPO does.
      holds_reference: Whether the weights of a reference policy are held.
      averages: Whether the mean of the weights over updates is held.
      uses_ewc: Whether the campaign's start and its Fisher information are held.
      served: Whether SGLang servers draw the completions, with memory of their own.
      overlap: Whether the next step's completions are drawn during the update.
      updates_per_draw: Steps that learn from the same completions.
      row_tokens: As config.learn.row_tokens.
      microbatch_rows: As config.learn.microbatch_rows.
      max_new_tokens: The longest completion that programs and caches are made for.
      prompt: The planned length of each prompt.
      completion: The planned length of each completion.
      train: The draws of a step.
      panel: The draws of a panel.
      report: The draws of a report panel.
      evaluations: The number of panels in a campaign.
      steps: Steps per campaign.
      campaigns: Campaigns in the chain.
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
    """Make the job of a resolved config.

    Args:
      config: The config.
      decoder: The shape of the policy.
      gpu: Whether the devices are GPUs, on which bfloat16 attention uses cuDNN.
      largest_head: The largest head, in elements, that cuDNN's attention takes on the devices.
      threads: As selfreg.policy.rollout.jax_engine.decoding_threads.
      lengths: The lengths of prompts and of completions, in tokens; None for the longest that the
        config allows.

    Raises:
      ValueError: The planned completions are longer than the config allows.
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
        # Turns are padded to a few sizes, because each size needs its own program.
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
        # Before jax 0.11, XLA's CPU backend widened bfloat16 to compute, and stored activations in
        # the wider type.
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
    """Return the rows that the job's update is compiled for, if `devices` devices split them.

    Raises:
      ValueError: The devices cannot split the rows.
    """
    completions = job.train.problems * job.train.group
    return make_packing(
        job.row_tokens, job.microbatch_rows, job.max_new_tokens, completions, devices
    )
