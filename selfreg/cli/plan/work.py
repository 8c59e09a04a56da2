"""Estimate the FLOPs and the bytes of a step, and the hours that they take.

A product of [n, a] with [a, b] takes 2 n a b FLOPs. So a token takes 2 FLOPs for each weight that
it is multiplied by. (Kaplan et al. 2020, arXiv:2001.08361, section 2.1, estimate 2N forward, and 6N
forward and backward; this module counts each matrix exactly.) Each pair of a query and a key takes
4 FLOPs per head and head dimension. Only pairs that the attention mask allows are counted.
"""

from dataclasses import dataclass

import numpy as np

from selfreg.cli.plan.devices import Device
from selfreg.cli.plan.job import Draws, Job, packing_of
from selfreg.cli.plan.weights import Split, weights
from selfreg.policy.learn.packing import computed_slots, pack
from selfreg.policy.models.decoder import DecoderConfig


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of the work, over all devices.

    Attributes:
      flops: FLOPs of the matrix products.
      bytes: Bytes that the busiest device reads from its memory; 0 for a stage that arithmetic
        bounds.
      seconds: The expected time.
    """

    flops: float
    bytes: float
    seconds: float

    def __add__(self, other: "Stage") -> "Stage":
        return Stage(
            self.flops + other.flops, self.bytes + other.bytes, self.seconds + other.seconds
        )

    def over(self, steps: int) -> "Stage":
        """Return the share of each of `steps` steps in this stage."""
        return Stage(self.flops / steps, self.bytes / steps, self.seconds / steps)


@dataclass(frozen=True, slots=True)
class Work:
    """The stages of a step and of the panels, and the time of campaigns.

    Attributes:
      sample: Drawing the completions of a step. If several steps learn from the same completions,
        it is one step's share.
      score: Scoring in a step: logprobs of the reference policy for a KL penalty, and of both
        policies for DPO.
      update: The update of a step.
      panel: One panel.
      report: One report panel. A campaign measures three.
      campaign_s: Seconds of a campaign: its steps, panels and reports, but not its grading and
        snapshots.
      chain_s: Seconds of all campaigns.
    """

    sample: Stage
    score: Stage
    update: Stage
    panel: Stage
    report: Stage
    campaign_s: float
    chain_s: float

    @property
    def step_s(self) -> float:
        """Seconds of one step without panels."""
        return self.sample.seconds + self.score.seconds + self.update.seconds


def token_flops(decoder: DecoderConfig) -> tuple[int, int]:
    """Return a token's forward FLOPs: products with the layers' matrices, and with the head."""
    matrices = sum(
        weight.size
        for weight in weights(decoder, Split(1, 1, 1))
        if weight.in_blocks and len(weight.shape) == 3
    )
    return 2 * matrices, 2 * decoder.vocab_size * decoder.width


def pair_flops(decoder: DecoderConfig, start: int, count: int) -> int:
    """Return the forward FLOPs of attention for `count` tokens that follow `start` earlier ones.

    A pair of a query and a key takes 2 FLOPs per head dimension for the score and 2 for the value.
    """
    windows = [decoder.window if slides else None for slides in decoder.slides]
    pairs = 0
    for window in set(windows):
        seen = range(start + 1, start + count + 1)
        pairs += windows.count(window) * sum(min(n, window) if window else n for n in seen)
    return 4 * decoder.heads * decoder.head_dim * pairs


def estimate_work(job: Job, split: Split, device: Device, *, mfu: float, mbu: float) -> Work:
    """Estimate the work of a job on a mesh.

    Arithmetic takes FLOPs / (devices x FLOP/s x mfu) seconds. Decoding takes at least bytes /
    (bandwidth x mbu) seconds. For each token of a turn, it reads the weights once, the keys and
    values of each row, and the keys and values of each prompt once for all rows that share it.

    Args:
      job: The job.
      split: The mesh.
      device: The kind of the mesh's devices.
      mfu: The fraction of a device's FLOP/s that matrix products reach.
      mbu: The fraction of its bandwidth that decoding reaches.
    """
    tflops = device.bfloat16_tflops if job.dtype_bytes == 2 else device.float32_tflops
    pace = split.data * split.fsdp * split.tensor * tflops * 1e12 * mfu
    layers, attention, head = _forward(job, split)
    # In the backward pass each product becomes two, but a frozen weight needs only one of them.
    # Remat runs the layers forward once more, or only their attention. The logits of a chunk are
    # always computed again.
    again = {"none": (0, 0), "dots": (0, 1), "layer": (1, 1)}[job.remat]
    wanted = 1 if job.lora_rank else 2
    update = (1 + wanted + again[0]) * layers + (3 + again[1]) * attention + (2 + wanted) * head
    sample, panel, report = (
        _decode(job, draws, split, device, pace, mbu)
        for draws in (job.train, job.panel, job.report)
    )
    sample = sample.over(job.updates_per_draw)
    score = job.scorings * (layers + attention + head)
    stages = Stage(score, 0.0, score / pace), Stage(update, 0.0, update / pace)
    step_s = sample.seconds + sum(stage.seconds for stage in stages)
    campaign_s = job.steps * step_s + job.evaluations * panel.seconds + 3 * report.seconds
    return Work(sample, *stages, panel, report, campaign_s, job.campaigns * campaign_s)


def _forward(job: Job, split: Split) -> tuple[int, int, int]:
    """Return a step's forward FLOPs: products with the layers, attention, and logprobs.

    Completions are in rows as `pack` places them, and every computed slot counts. For attention,
    only pairs that the mask allows count.
    """
    decoder, problems, group = job.decoder, job.train.problems, job.train.group
    matrices, head = token_flops(decoder)
    packing = packing_of(job, split.rows)
    lengths = np.full((problems, group), job.completion)
    slots = computed_slots(pack(lengths, job.max_new_tokens, packing), packing)
    attention = problems * pair_flops(decoder, 0, job.prompt)
    attention += lengths.size * pair_flops(decoder, job.prompt, job.completion)
    return (problems * job.prompt + slots) * matrices, attention, slots * head


def _decode(job: Job, draws: Draws, split: Split, device: Device, pace: float, mbu: float) -> Stage:
    """Estimate decoding: prefill each prompt once, then decode one token of every row at a time."""
    decoder, total = job.decoder, draws.problems * draws.group
    matrices, head = token_flops(decoder)
    turns = -(-total // draws.at_once)
    prefill = draws.problems * (job.prompt * matrices + pair_flops(decoder, 0, job.prompt))
    drawn = total * (
        job.completion * (matrices + head) + pair_flops(decoder, job.prompt, job.completion)
    )
    rows, prompts = draws.held(split.rows)
    token = 2 * decoder.layers * decoder.kv_heads * decoder.head_dim * job.dtype_bytes
    # Cache columns that are read, summed over the tokens of a completion.
    columns = job.completion * (prompts * job.prompt + rows * job.completion / 2)
    shared = split.tensor if decoder.kv_heads % split.tensor == 0 else 1
    read = sum(weight.size for weight in weights(decoder, split)) * job.dtype_bytes / split.tensor
    moved = turns * (job.completion * read + columns * token / shared)
    seconds = prefill / pace + max(drawn / pace, moved / (device.bandwidth_gb_s * 1e9 * mbu))
    return Stage(prefill + drawn, moved, seconds)
