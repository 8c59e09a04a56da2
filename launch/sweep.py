r"""Run every chain of a wave, or of a sweep over any config. It first prints what they cost.

    selfreg sweep --config=w17 --dry_run              # only print chains, commands and cost
    selfreg sweep --config=w17:tiny --jobs=2
    selfreg sweep --config=tiny --sweep=seed=7,11,17 --sweep=condition=A0,ES
    selfreg sweep --config=w17:7b --config.model.path=FOLDER --devices=8xH100 \
        --slurm --slurm_options=slurm_partition=gpu,gpus_per_node=8,timeout_min=720

The same command skips chains that have finished, and resumes the others. A chain that takes its
first campaign or its policy from another chain waits for it. Ctrl-C stops all chains.
--config.KEY=VALUE sets a key of every chain. The output of a chain goes to chain.log in its run
folder.

Under SLURM, chains are array jobs, which are queued again when they are preempted. With nodes=2,
each chain is one run over two nodes. `selfreg status --runs=runs --live` shows how they stand.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from shlex import join

from absl import flags
from rich.console import Console
from rich.live import Live
from rich.table import Table

from launch.cost import costs, words
from launch.jobs import Job, make_jobs
from launch.local import run_local
from launch.slurm import submit
from selfreg.cli.command import config_flags, find_keys
from selfreg.run.command import Command, Exit, fail, not_a_flag
from selfreg.run.command import run as run_command
from selfreg.run.progress import clock
from selfreg.run.standing import State, read_standing, table, wide_console

_CONFIG = flags.DEFINE_string("config", None, "A config file, or a shipped one, such as w17:tiny.")
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


def main(settings: list[str]) -> int:
    """Print the chains, then run them; returns the exit code."""
    console = wide_console()
    try:
        for setting in settings:
            if not setting.startswith(_SETTING):
                raise ValueError(not_a_flag(setting, config_flags()))
        if _CONFIG.value is None:
            raise ValueError("--config is missing: name one, such as --config=w17:tiny")
        runs = Path(_RUNS.value)
        jobs = make_jobs(_CONFIG.value, _SWEEP.value, settings, runs)
        _announce(console, jobs, runs)
        if _DRY_RUN.value:
            return Exit.OK
        if _SLURM.value:
            queued = submit(jobs, runs, _options(), _JOBS.value)
            print(
                f"queued {len(queued)} chains. To follow them, run: "
                f"selfreg status --runs={runs} --live"
            )
            return Exit.OK
    except (ValueError, ImportError, FileNotFoundError) as error:
        fail(error)
    try:
        with Live(console=console, auto_refresh=False, transient=True) as live:
            show = _board(jobs, live) if console.is_terminal else _lines(jobs)
            run_local(jobs, _JOBS.value, show)
    except KeyboardInterrupt:
        print("stopped. Run the same command to resume the chains", file=sys.stderr)
        sys.exit(Exit.INTERRUPTED)
    return _tell(console, jobs)


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


def _set_aside(arguments: list[str]) -> list[str]:
    """Put --config.KEY=VALUE behind the flags of this command: they are the chains' own."""
    settings = [argument for argument in arguments if argument.startswith(_SETTING)]
    return [*(a for a in arguments if not a.startswith(_SETTING)), "--", *settings]


def run() -> None:
    """Run the command."""
    run_command(
        main,
        Command(
            "sweep",
            "launch.sweep",
            "--config=NAME [--config.KEY=VALUE ...]",
            arguments="--config.KEY=VALUE",
            prepare=_set_aside,
            names=config_flags,
            details=find_keys,
        ),
    )


if __name__ == "__main__":
    run()
