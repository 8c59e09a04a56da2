"""Estimate a job's memory: bytes per device all through a run, in each phase, and on the host.

The formulas follow XLA's buffers for the programs. A test compares them with the compiler's own
memory analysis. They are upper bounds in the lengths: every row has the planned length.
"""

import math
from dataclasses import dataclass

from selfreg.cli.plan.decoding import busiest, decoding, engine_weights, hand_over, most
from selfreg.cli.plan.job import Job
from selfreg.cli.plan.learning import learning, scoring
from selfreg.cli.plan.weights import MASTER, Split, moment_bytes, trained, weights

AHEAD = "drawn ahead: "
WEIGHTS = ("weights, float32", "frozen weights")


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes per device, by part.

    Attributes:
      stays: Bytes held all through a run.
      update: Bytes added during an update.
      hand_over: Bytes added while the engine gets new weights.
      sample: Bytes added while completions are drawn.
      host: Bytes of the host's memory, for all of its devices together.
    """

    stays: dict[str, float]
    update: dict[str, float]
    hand_over: dict[str, float]
    sample: dict[str, float]
    host: dict[str, float]

    @property
    def peak(self) -> float:
        """The most bytes that a device holds at one time."""
        phases = (self.update, self.hand_over, self.sample)
        return sum(self.stays.values()) + max(sum(phase.values()) for phase in phases)


def estimate(job: Job, split: Split) -> Memory:
    """Estimate the memory of a job on a mesh."""
    owned = weights(job.decoder, split)
    whole = sum(weight.shard for weight in owned)
    learns = trained(job, split)
    count = sum(weight.shard for weight in learns)
    devices, numbers = math.prod(split), sum(weight.size for weight in owned)
    moments = sum(weight.shard * moment_bytes(job, weight) for weight in learns)
    # The first snapshot of a campaign also holds the Fisher information.
    saved = count * MASTER * (1 + job.uses_ewc + job.averages)
    # Frozen weights have the type that layers compute in; adapters are in float32.
    frozen = {"frozen weights": whole * job.dtype_bytes, "adapters": count * MASTER}
    stays = {
        **(frozen if job.lora_rank else {"weights, float32": whole * MASTER}),
        "Adam's moments": moments,
        "engine's weights": 0.0 if job.served else engine_weights(job, split),
        "reference policy": count * MASTER if job.holds_reference else 0.0,
        "averaged weights": count * MASTER if job.averages else 0.0,
        "EWC's start and Fisher": 2 * count * MASTER if job.uses_ewc else 0.0,
    }
    update = learning(job, split)
    if job.overlap:
        update |= {
            f"{AHEAD}{part}": size for part, size in most(decoding(job, split, job.train)).items()
        }
    host = {
        "initial weights": numbers * MASTER,
        "a snapshot being written": (saved + moments) * devices / split.data,
        "weights for the servers": numbers * job.dtype_bytes if job.served else 0.0,
    }
    sample = most(decoding(job, split, busiest(job, split)))
    return Memory(stays, update, hand_over(job, split), sample, host)


def of_programs(job: Job, split: Split) -> dict[str, float]:
    """Estimate the bytes that each program alone needs on a device, including its arguments.

    The names are those of `compiled.PROGRAMS`. A run holds more beside a program: everything in
    `Memory.stays`.
    """
    memory = estimate(job, split)
    stays = memory.stays
    learns = sum(memory.update.values()) - sum(
        size for part, size in memory.update.items() if part.startswith(AHEAD)
    )
    policy = sum(stays.get(part, 0.0) for part in (*WEIGHTS, "adapters"))
    state = policy + stays["Adam's moments"] + stays["EWC's start and Fisher"]
    engine = engine_weights(job, split)
    # Prefill computes only keys and values, so it does not use an untied head.
    head = sum(weight.shard for weight in weights(job.decoder, split) if weight.name == "head")
    beside = {"prefill": engine - head * job.dtype_bytes * split.fsdp, "segment": engine, "pack": 0}
    turns = decoding(job, split, busiest(job, split))
    return {
        "update": state + learns,
        "logprobs": policy + sum(scoring(job, split).values()),
        "unstack": policy + engine + sum(memory.hand_over.values()),
        **{name: beside[name] + sum(parts.values()) for name, parts in turns.items()},
    }
