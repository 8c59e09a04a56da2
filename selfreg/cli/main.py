"""Run one chain of campaigns, or resume it.

    selfreg train --config=tiny --config.condition=ES --workdir=runs/tiny/ES
    selfreg train --help optimizer      # the keys that hold a word

The same command resumes a chain that was stopped. For a finished chain it only rewrites the report.

To use several hosts or processes, start the same command in each of them, with a run folder that
all of them can access. config.mesh counts the devices of all processes. Under SLURM, Open MPI,
Kubernetes or on a TPU pod:

    srun selfreg train --config=tiny --coordinator=auto

Elsewhere, name the host of the first process, and give each process its index, counted from 0:

    selfreg train ... --coordinator=10.0.0.1:9911 --process_count=2 --process_index=0

The first process grades, writes and shows progress. Ctrl-C in one process ends all of them after
their current step.
"""

import os
import sys
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from selfreg.cli.command import read_config
from selfreg.cli.command import run as run_command
from selfreg.run import interrupt
from selfreg.run.command import Exit

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "A config file, or the name of one that ships with selfreg, such as tiny. NAME:VARIANT picks a "
    "variant. --config.KEY=VALUE sets a single key.",
    lock_config=True,
)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "The run folder. By default runs/NAME/CONDITION/seed_SEED. A run that is in it is resumed.",
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator",
    None,
    "HOST:PORT of the first of several processes, or auto. Without it, one process runs.",
)
_COUNT = flags.DEFINE_integer(
    "process_count", None, "How many processes the run has.", lower_bound=1
)
_INDEX = flags.DEFINE_integer(
    "process_index", None, "The index of this process, from 0.", lower_bound=0
)


def main(_: list[str]) -> None:
    """Run one chain and write its report."""
    config = read_config(_CONFIG)
    name = f"{config.name}/{config.condition}/seed_{config.seed}"
    workdir = Path(_WORKDIR.value or f"runs/{name}")
    # Ctrl-C must wait, because inside a library's C code it can end in any error.
    interrupt.install(at_once=False)
    # Imported this late, so that a mistake in a flag is reported without waiting for jax to load.
    from jax.errors import JaxRuntimeError

    from selfreg.policy import distributed

    try:
        _run(config, workdir)
    except (ValueError, ImportError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        distributed.leave(Exit.MISTAKE)
    except KeyboardInterrupt:
        print(f"\nstopped; run the same command again to resume {workdir}", file=sys.stderr)
        distributed.leave(Exit.INTERRUPTED)
    except JaxRuntimeError as error:
        if not _COORDINATOR.value:
            raise
        print(
            f"error: {str(error).partition(chr(10))[0]}\nIf another process has ended, its output "
            "says why. Run the same command again in all of them to resume.",
            file=sys.stderr,
        )
        distributed.leave(Exit.FAILED)


def _run(config: Any, workdir: Path) -> None:
    from selfreg.analysis.report import write_report
    from selfreg.grading import GraderError
    from selfreg.loop.chain import run_chain
    from selfreg.loop.update import MismatchError, NonFiniteLossError
    from selfreg.policy import distributed, xla
    from selfreg.policy.rollout.engine import EngineError

    if _COORDINATOR.value:
        distributed.start(_COORDINATOR.value, _COUNT.value, _INDEX.value)
    interrupt.install(at_once=not _COORDINATOR.value)
    xla.set_up()
    try:
        run_chain(config, workdir)
    except (NonFiniteLossError, MismatchError, GraderError, EngineError) as error:
        print(f"error: {error}\nRun the same command again to resume.", file=sys.stderr)
        distributed.leave(Exit.FAILED)
    report = distributed.from_first(lambda: write_report(workdir))
    if distributed.is_first():
        print(report)


def run() -> None:
    """Run the command."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # torch is not needed here
    run_command(
        main, "train", "selfreg.main", "--config=NAME [--config.KEY=VALUE ...]", lists_keys=True
    )


if __name__ == "__main__":
    run()
