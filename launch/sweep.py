r"""Print what a wave costs, and run all its chains, or those of a sweep over any config.

    python -m launch.sweep --config=configs/w17.py --dry_run              # chains, commands, cost
    python -m launch.sweep --config=configs/w17.py:tiny --jobs=2
    python -m launch.sweep --config=configs/tiny.py --sweep=seed=7,11,17 --sweep=condition=A0,ES
    python -m launch.sweep --config=configs/w17.py:7b --config.model.path=FOLDER --devices=8xH100 \
        --slurm --slurm_options=slurm_partition=gpu,gpus_per_node=8,timeout_min=720

Running the same command again skips finished chains and resumes the others. A chain that takes its
first campaign or its policy from another chain waits for it. Ctrl-C stops all chains.
--config.KEY=VALUE sets a key of every chain. Each chain writes its output to chain.log in its run
folder.

Under SLURM, chains are array jobs, which are queued again when preempted. With nodes=2, each chain
is one run over two nodes. `python -m selfreg.status --runs=runs --live` shows their state.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from shlex import join

from absl import app, flags
from rich.console import Console
from rich.live import Live
from rich.table import Table

from launch.cost import costs, words
from launch.jobs import Job, make_jobs
from launch.local import run_local
from launch.slurm import submit
from selfreg.cli.command import fail
from selfreg.run.progress import clock
from selfreg.run.standing import State, read_standing, table, wide_console

_CONFIG = flags.DEFINE_string("config", None, "A config file, such as configs/w17.py:tiny.")
_SWEEP = flags.DEFINE_multi_string(
    "sweep", [], "KEY=VALUE,VALUE. Several sweeps give the product of their values."
)
_RUNS = flags.DEFINE_string("runs", "runs", "The folder of all runs.")
_JOBS = flags.DEFINE_integer("jobs", 1, "The number of chains to run at a time.", lower_bound=1)
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the chains without running them.")
_DEVICES = flags.DEFINE_string("devices", "1xCPU", "The devices for a chain's planned cost.")
_SLURM = flags.DEFINE_bool("slurm", False, "Queue the chains on SLURM.")
_OPTIONS = flags.DEFINE_list("slurm_options", [], "NAME=VALUE options of submitit's executor.")
_SETTING = "--config."


def main(arguments: list[str]) -> None:
    """Print the chains, then run them."""
    settings, console = arguments[1:], wide_console()
    try:
        if _CONFIG.value is None:
            raise ValueError("--config is missing: name a file, such as --config=configs/w17.py")
        runs = Path(_RUNS.value)
        jobs = make_jobs(_CONFIG.value, _SWEEP.value, settings, runs)
        _announce(console, jobs, runs)
        if _DRY_RUN.value:
            return
        if _SLURM.value:
            queued = submit(jobs, runs, _options(), _JOBS.value)
            print(
                f"queued {len(queued)} chains. To follow them, run: "
                f"python -m selfreg.status --runs={runs} --live"
            )
            return
    except (ValueError, ImportError, FileNotFoundError) as error:
        fail(error)
    try:
        with Live(console=console, auto_refresh=False, transient=True) as live:
            show = _board(jobs, live) if console.is_terminal else _lines(jobs)
            run_local(jobs, _JOBS.value, show)
    except KeyboardInterrupt:
        print("stopped. Run the same command to resume the chains", file=sys.stderr)
        sys.exit(130)
    sys.exit(_tell(console, jobs))


def _announce(console: Console, jobs: Sequence[Job], runs: Path) -> None:
    """Print the chains, their cost, and the commands of the unfinished ones."""
    found = costs(jobs, _DEVICES.value)
    drawn = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("chain", "state", "cost", "first"):
        drawn.add_column(column, overflow="fold")
    for job, (seconds, measured) in zip(jobs, found, strict=True):
        state = read_standing(job.folder).state.value
        first = f"{_kind(job)} {job.source.relative_to(runs)}" if job.source else ""
        drawn.add_row(job.chain.place, state, words(seconds, measured), first)
    console.print(drawn)
    left = [job for job in jobs if read_standing(job.folder).state is not State.FINISHED]
    for job in left:
        console.print(
            join(["python", "-m", "selfreg.main", *job.arguments]), soft_wrap=True, highlight=False
        )
    total = sum(
        seconds for job, (seconds, _) in zip(jobs, found, strict=True) if job in left
    )  # a chain that has already started counts in full
    console.print(
        f"{len(jobs)} chains, {len(jobs) - len(left)} finished. The planned time of the others is "
        f"{clock(total)} one after another on {_DEVICES.value}, plus grading and snapshots",
        soft_wrap=True, highlight=False,
    )  # fmt: skip


def _kind(job: Job) -> str:
    return "campaign 0 of" if job.needs_first_campaign else "the end of"


def _board(jobs: Sequence[Job], live: Live) -> Callable[[], None]:
    """Return a function that shows running and failed chains, and counts finished ones."""

    def show() -> None:
        standings = [read_standing(job.folder) for job in jobs]
        drawn = table([one for one in standings if one.state in (State.RUNNING, State.FAILED)])
        ended = sum(one.state is State.FINISHED for one in standings)
        drawn.caption = f"{ended} of {len(jobs)} chains finished"
        live.update(drawn, refresh=True)

    return show


def _lines(jobs: Sequence[Job]) -> Callable[[], None]:
    """Return a function that prints each change of a chain's state, for use without a terminal."""
    states = {job.folder: read_standing(job.folder).state for job in jobs}

    def show() -> None:
        for job in jobs:
            state = read_standing(job.folder).state
            if state is not states[job.folder]:
                states[job.folder] = state
                print(f"{job.chain.place} {state}", flush=True)

    return show


def _tell(console: Console, jobs: Sequence[Job]) -> int:
    """Print how all chains ended, and return the exit code."""
    console.print(table([read_standing(job.folder) for job in jobs]))
    left = [job for job in jobs if read_standing(job.folder).state is not State.FINISHED]
    for job in left:
        standing = read_standing(job.folder)
        if job.source and not job.is_ready:
            print(f"{job.folder} waits for {_kind(job)} {job.source}", file=sys.stderr)
        else:
            print(f"{job.folder} {standing.state}: {standing.error}", file=sys.stderr)
    if left:
        print("run the same command to resume these chains", file=sys.stderr)
    return 1 if left else 0


def _options() -> dict[str, int | str]:
    """Parse --slurm_options, and convert whole numbers to int."""
    named = {}
    for option in _OPTIONS.value:
        name, equals, value = option.partition("=")
        if not equals:
            raise ValueError(f"--slurm_options={option} is not NAME=VALUE")
        named[name] = int(value) if value.isdecimal() else value
    return named


def _parse(arguments: list[str]) -> list[str]:
    """Parse flags, and leave --config.KEY=VALUE for the chains."""
    if any(argument in ("--help", "-help", "-h") for argument in arguments):
        print(f"{__doc__}\n{flags.FLAGS.module_help(__name__)}")
        sys.exit(0)
    settings = [argument for argument in arguments if argument.startswith(_SETTING)]
    try:
        left = flags.FLAGS([a for a in arguments if not a.startswith(_SETTING)])
        if len(left) > 1:
            raise ValueError(f"{left[1]!r} is not a flag: --help lists the flags")
    except (flags.Error, ValueError) as error:
        fail(error)
    return [*left, *settings]


if __name__ == "__main__":
    app.run(main, flags_parser=_parse)
