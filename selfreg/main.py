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
from pathlib import Path
from typing import NoReturn

from absl import app, flags, logging
from ml_collections import FrozenConfigDict, config_flags

from selfreg.config import check_names, describe, resolve

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


def _parse(arguments: list[str]) -> list[str]:
    """Parse flags; a user's mistake ends in one line, not in a traceback."""
    if any(argument in ("--help", "-help", "-h") for argument in arguments):
        print(f"{__doc__}\nKeys, their defaults and what they mean:\n{describe()}")
        sys.exit(0)
    try:
        # ml_collections would name an unknown key and nothing else.
        check_names(
            argument.partition("=")[0].removeprefix("--config.")
            for argument in arguments
            if argument.startswith("--config.")
        )
        return flags.FLAGS(arguments)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        return _fail(error)


def _fail(error: BaseException) -> NoReturn:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)


def _config() -> FrozenConfigDict:
    if _CONFIG.value is None:
        raise ValueError("--config is missing: name a file, such as --config=configs/tiny.py")
    file = config_flags.get_config_filename(flags.FLAGS["config"])
    if not Path(file.partition(":")[0]).is_file():
        raise ValueError(f"--config={file}: there is no such file")
    return resolve(_CONFIG.value)


def main(_: list[str]) -> None:
    """Run one chain and write its report."""
    if not flags.FLAGS["verbosity"].present:  # the libraries' notes would bury the run's
        logging.set_verbosity(logging.ERROR)
    try:
        config = _config()
    except ValueError as error:
        _fail(error)
    name = f"{config.name}/{config.condition}/seed_{config.seed}"
    workdir = Path(_WORKDIR.value or f"runs/{name}")
    # Only now: a mistake in a flag should not wait for jax to load.
    from jax.errors import JaxRuntimeError

    from selfreg import distributed

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


def _run(config: FrozenConfigDict, workdir: Path) -> None:
    from selfreg import distributed, interrupt, xla
    from selfreg.analysis.report import write_report
    from selfreg.campaign import NonFiniteLossError
    from selfreg.chain import run_chain
    from selfreg.grading import GraderError

    if _COORDINATOR.value:
        distributed.start(_COORDINATOR.value, _COUNT.value, _INDEX.value)
    interrupt.watch(at_once=not _COORDINATOR.value)
    xla.set_up()
    try:
        run_chain(config, workdir)
    except (NonFiniteLossError, GraderError) as error:
        print(f"error: {error}\nRun the same command again to resume.", file=sys.stderr)
        distributed.leave(1)
    report = distributed.from_first(lambda: write_report(workdir))
    if distributed.is_first():
        print(report)


def run() -> None:
    """The console entry point."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # torch is not needed here
    app.run(main, flags_parser=_parse)


if __name__ == "__main__":
    run()
