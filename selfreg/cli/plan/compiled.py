"""What XLA's compiler makes of a config's programs: memory, collectives, attention, seconds."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import Mesh

from selfreg.cli.plan.decoding import busiest
from selfreg.cli.plan.deviceless import cudnn_asks
from selfreg.cli.plan.hlo import attention_kernel, moved
from selfreg.cli.plan.job import Job
from selfreg.cli.plan.programs import (
    Lower,
    learner_without_weights,
    lower_decoding,
    lower_learning,
    microbatches,
)
from selfreg.cli.plan.weights import Split

# The programs that are compiled, as the learner and the engine call them, and what they do.
PROGRAMS = {
    "update": "update",
    "logprobs": "scoring",
    "unstack": "weight hand-over",
    "prefill": "prefill",
    "segment": "decode",
    "pack": "pack",
}


@dataclass(frozen=True, slots=True)
class Compiled:
    """One compiled program. Bytes are a device's.

    Attributes:
      arguments: What goes in, donated or not.
      made: What comes out and lies in no argument's memory.
      temporaries: Beside both, at the most.
      host: Arguments in the host's memory.
      sent: What collectives send from a device, by kind: for an update and a scoring pass a step's
        with every completion at its limit, for a decoding segment a token's.
      attention: The kernel in the program, cudnn or plain.
      seconds: That lowering and compiling took.
    """

    arguments: int
    made: int
    temporaries: int
    host: int
    sent: Mapping[str, float]
    attention: str
    seconds: float

    @property
    def peak(self) -> int:
        """What the program asks of a device: XLA's buffer assignment."""
        return self.arguments + self.made + self.temporaries


def compile_programs(
    config: Any, job: Job, mesh: Mesh, names: Sequence[str] = tuple(PROGRAMS)
) -> Iterator[tuple[str, Compiled]]:
    """Compile a config's programs one by one, for the mesh's devices.

    Args:
      config: Resolved.
      job: Of the config.
      mesh: Its devices may be described ones (selfreg.cli.plan.deviceless).
      names: Which of PROGRAMS; those that the config does not have are left out.

    Yields:
      A name and its report, as soon as it is there.
    """
    device, turns = mesh.devices.flat[0], microbatches(config, job, mesh)
    with cudnn_asks(device):
        programs = lower_programs(config, job, mesh)
        for name in names:
            if name in programs:
                begun = time.perf_counter()
                program = programs[name]().compile()
                seconds = time.perf_counter() - begun
                learns = name in ("update", "logprobs")
                yield name, report(program, mesh.size, turns if learns else 1, seconds)


def lower_programs(config: Any, job: Job, mesh: Mesh) -> dict[str, Lower]:
    """All programs of a config by name, each lowered when it is called."""
    learner = learner_without_weights(config, job, mesh)
    programs = lower_learning(learner, config, job, mesh)
    if not job.served:
        draws = busiest(job, Split(**mesh.shape))
        programs |= lower_decoding(learner, config, job, draws, mesh)
    return programs


def report(
    program: jax.stages.Compiled, devices: int, turns: int = 1, seconds: float = 0.0
) -> Compiled:
    """Read a compiled program's own account of itself.

    Args:
      program: The program.
      devices: That run it.
      turns: How often its loops of unknown length run.
      seconds: That compiling it took.
    """
    memory: Any = program.memory_analysis()
    text = program.as_text() or ""
    return Compiled(
        arguments=memory.argument_size_in_bytes,
        # What is donated is counted among the arguments.
        made=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        host=memory.host_argument_size_in_bytes,
        sent=moved(text, devices).over(turns),
        attention=attention_kernel(text),
        seconds=seconds,
    )
