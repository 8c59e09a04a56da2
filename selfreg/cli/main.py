"""The command line: one chain.

    python -m selfreg.main --config=configs/tiny.py --config.condition=ES --workdir=runs/tiny/ES

Run the same command again to resume: a finished chain only writes its report anew.

On several hosts or processes, start the same command in each, on a run folder that all of them
see; config.mesh is over the devices of all. Under SLURM, Open MPI, Kubernetes or on a TPU pod:

    srun python -m selfreg.main --config=configs/tiny.py --coordinator=auto

and elsewhere, with an address of the first process's host and the index from 0 in each:

    python -m selfreg.main ... --coordinator=10.0.0.1:9911 --process_count=2 --process_index=0

The first process grades, writes and shows progress; Ctrl-C in one ends all after their step.
"""

import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

from absl import app, flags, logging
from ml_collections import config_flags

from selfreg.cli.command import fail, leave_torch_out, parse_flags, read_config
from selfreg.run import interrupt

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "A config file, such as configs/tiny.py; single keys by --config.KEY=VALUE.",
    lock_config=True,
)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "The run folder; runs/NAME/CONDITION/seed_SEED by default. A run that is there is resumed.",
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of the first of several processes, or auto; none: one process."
)
_COUNT = flags.DEFINE_integer("process_count", None, "Processes of the run.", lower_bound=1)
_INDEX = flags.DEFINE_integer("process_index", None, "This process, from 0.", lower_bound=0)


def main(_: list[str]) -> None:
    """Run one chain and write its report."""
    if not flags.FLAGS["verbosity"].present:  # the libraries' notes would bury the run's
        logging.set_verbosity(logging.ERROR)
    try:
        config = read_config(_CONFIG)
    except ValueError as error:
        fail(error)
    name = f"{config.name}/{config.condition}/seed_{config.seed}"
    workdir = Path(_WORKDIR.value or f"runs/{name}")
    # Ctrl-C in the middle of a library's own C code can end in any error.
    interrupt.install(at_once=False)
    # Only now: a mistake in a flag should not wait for jax to load.
    from jax.errors import JaxRuntimeError

    from selfreg.policy import distributed

    try:
        _run(config, workdir)
    except (ValueError, ImportError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        distributed.leave(2)
    except KeyboardInterrupt:
        print(f"\nstopped; run the same command again to resume {workdir}", file=sys.stderr)
        distributed.leave(130)
    except JaxRuntimeError as error:
        if not _COORDINATOR.value:
            raise
        print(
            f"error: {str(error).partition(chr(10))[0]}\nIf another process has ended, its output "
            "says why. Run the same command again in all of them to resume.",
            file=sys.stderr,
        )
        distributed.leave(1)


def _run(config: Any, workdir: Path) -> None:
    leave_torch_out()
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
        distributed.leave(1)
    report = distributed.from_first(lambda: write_report(workdir))
    if distributed.is_first():
        print(report)


def run() -> None:
    """The console entry point."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # torch is not needed here
    app.run(main, flags_parser=partial(parse_flags, doc=__doc__))


if __name__ == "__main__":
    run()
