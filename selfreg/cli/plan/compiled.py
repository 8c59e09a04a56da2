"""Compile a config's programs, and report their memory, collectives, attention and seconds."""

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

# The programs to compile: their names in the learner and the engine, and the names for a person.
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
    """One compiled program. All byte counts are for one device.

    Attributes:
      arguments: Bytes of the arguments, donated or not.
      made: Bytes of the results that do not reuse the memory of an argument.
      temporaries: Most bytes in use besides arguments and results.
      host: Bytes of arguments in the host's memory.
      sent: Bytes that collectives send from a device, by kind. For an update and a scoring pass,
        the count is for one step with every completion at its limit. For a decoding segment, it is
        for one token.
      attention: The attention kernel in the program, cudnn or plain.
      seconds: The time of lowering and compiling.
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
        """Bytes that the program allocates on a device, by XLA's buffer assignment."""
        return self.arguments + self.made + self.temporaries


def compile_programs(
    config: Any, job: Job, mesh: Mesh, names: Sequence[str] = tuple(PROGRAMS)
) -> Iterator[tuple[str, Compiled]]:
    """Compile a config's programs one by one, for the devices of a mesh.

    Args:
      config: The resolved config.
      job: The job of the config.
      mesh: A mesh of real or of described devices (selfreg.cli.plan.deviceless).
      names: The programs to compile, of PROGRAMS; those that the config does not use are skipped.

    Yields:
      The name and the report of each program, as soon as it is compiled.
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
    """Return functions, by the program's name, that lower each program of a config."""
    learner = learner_without_weights(config, job, mesh)
    programs = lower_learning(learner, config, job, mesh)
    if not job.served:
        draws = busiest(job, Split(**mesh.shape))
        programs |= lower_decoding(learner, config, job, draws, mesh)
    return programs


def report(
    program: jax.stages.Compiled, devices: int, turns: int = 1, seconds: float = 0.0
) -> Compiled:
    """Read the memory and the collectives of a compiled program.

    Args:
      program: The program.
      devices: The number of devices that run it.
      turns: The number of iterations of its loops of unknown length.
      seconds: The time that compiling took.
    """
    memory: Any = program.memory_analysis()
    text = program.as_text() or ""
    return Compiled(
        arguments=memory.argument_size_in_bytes,
        # A result in donated memory is already counted as an argument.
        made=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        host=memory.host_argument_size_in_bytes,
        sent=moved(text, devices).over(turns),
        attention=attention_kernel(text),
        seconds=seconds,
    )
