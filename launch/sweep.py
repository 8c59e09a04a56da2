r"""Run every chain of a wave, or of a sweep over any config: first what it costs, then all of it.

    python -m launch.sweep --config=configs/w17.py --dry_run              # chains, commands, cost
    python -m launch.sweep --config=configs/w17.py:tiny --jobs=2
    python -m launch.sweep --config=configs/tiny.py --sweep=seed=7,11,17 --sweep=condition=A0,ES
    python -m launch.sweep --config=configs/w17.py:7b --config.model.path=FOLDER --devices=8xH100 \
        --slurm --slurm_options=slurm_partition=gpu,gpus_per_node=8,timeout_min=720

The same command again skips chains that have finished and goes on with the others where they were.
A chain that takes its first campaign, or its policy, from another waits for that. Ctrl-C stops all.
--config.KEY=VALUE sets a key of every chain; each chain's output is chain.log in its run folder.

Under SLURM, chains are array jobs that are queued again when preempted; with nodes=2 each is one
run over two nodes. `python -m selfreg.status --runs=runs --live` shows how they stand.
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
_SWEEP = flags.DEFINE_multi_string("sweep", [], "KEY=VALUE,VALUE; several: their product.")
_RUNS = flags.DEFINE_string("runs", "runs", "The folder of all runs.")
_JOBS = flags.DEFINE_integer("jobs", 1, "Chains that run at a time.", lower_bound=1)
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Only print.")
_DEVICES = flags.DEFINE_string("devices", "1xCPU", "What a chain runs on, for its planned cost.")
_SLURM = flags.DEFINE_bool("slurm", False, "Queue the chains on SLURM.")
_OPTIONS = flags.DEFINE_list("slurm_options", [], "NAME=VALUE of submitit's executor.")
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
            print(f"queued {len(queued)}; python -m selfreg.status --runs={runs} --live")
            return
    except (ValueError, ImportError, FileNotFoundError) as error:
        fail(error)
    try:
        with Live(console=console, auto_refresh=False, transient=True) as live:
            show = _board(jobs, live) if console.is_terminal else _lines(jobs)
            run_local(jobs, _JOBS.value, show)
    except KeyboardInterrupt:
        print("stopped; the same command goes on where the chains were", file=sys.stderr)
        sys.exit(130)
    sys.exit(_tell(console, jobs))


def _announce(console: Console, jobs: Sequence[Job], runs: Path) -> None:
    """The chains, their cost, and the commands of those that are left."""
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
    )  # planned: a chain that was begun counts whole
    console.print(
        f"{len(jobs)} chains, {len(jobs) - len(left)} finished; those left take {clock(total)} one "
        f"after the other on {_DEVICES.value} each, as planned: grading and snapshots come on top",
        soft_wrap=True, highlight=False,
    )  # fmt: skip


def _kind(job: Job) -> str:
    return "campaign 0 of" if job.needs_first_campaign else "the end of"


def _board(jobs: Sequence[Job], live: Live) -> Callable[[], None]:
    """Shows what runs and what has failed, and counts the rest."""

    def show() -> None:
        standings = [read_standing(job.folder) for job in jobs]
        drawn = table([one for one in standings if one.state in (State.RUNNING, State.FAILED)])
        ended = sum(one.state is State.FINISHED for one in standings)
        drawn.caption = f"{ended} of {len(jobs)} chains finished"
        live.update(drawn, refresh=True)

    return show


def _lines(jobs: Sequence[Job]) -> Callable[[], None]:
    """Says when a chain's state changes, for where there is no terminal."""
    states = {job.folder: read_standing(job.folder).state for job in jobs}

    def show() -> None:
        for job in jobs:
            state = read_standing(job.folder).state
            if state is not states[job.folder]:
                states[job.folder] = state
                print(f"{job.chain.place} {state}", flush=True)

    return show


def _tell(console: Console, jobs: Sequence[Job]) -> int:
    """Say how all of it ended, and the exit code for that."""
    console.print(table([read_standing(job.folder) for job in jobs]))
    left = [job for job in jobs if read_standing(job.folder).state is not State.FINISHED]
    for job in left:
        standing = read_standing(job.folder)
        if job.source and not job.is_ready:
            print(f"{job.folder} waits for {_kind(job)} {job.source}", file=sys.stderr)
        else:
            print(f"{job.folder} {standing.state}: {standing.error}", file=sys.stderr)
    if left:
        print("the same command runs these again, from where they were", file=sys.stderr)
    return 1 if left else 0


def _options() -> dict[str, int | str]:
    """What --slurm_options says, whole numbers as such."""
    named = {}
    for option in _OPTIONS.value:
        name, equals, value = option.partition("=")
        if not equals:
            raise ValueError(f"--slurm_options={option} is not NAME=VALUE")
        named[name] = int(value) if value.isdecimal() else value
    return named


def _parse(arguments: list[str]) -> list[str]:
    """Parse flags; --config.KEY=VALUE is left for the chains."""
    if any(argument in ("--help", "-help", "-h") for argument in arguments):
        print(f"{__doc__}\n{flags.FLAGS.module_help(__name__)}")
        sys.exit(0)
    settings = [argument for argument in arguments if argument.startswith(_SETTING)]
    try:
        left = flags.FLAGS([a for a in arguments if not a.startswith(_SETTING)])
        if len(left) > 1:
            raise ValueError(f"{left[1]!r} is no flag: --help lists them")
    except (flags.Error, ValueError) as error:
        fail(error)
    return [*left, *settings]


if __name__ == "__main__":
    app.run(main, flags_parser=_parse)
