"""Follow a trainer's log, and alarm when its policy is worse than its best checkpoint.

    selfreg watch out/train.log                        # until it alarms: exit code 3
    selfreg watch out/ --stop_file=out/STOP --on_alarm='scancel 1234'
    selfreg watch trainer_state.json --once            # 3 or 0, for cron and CI
    selfreg watch out/train.log --panel=panel.jsonl    # rates by problem: far sooner
    selfreg watch --plan --problems=96 --samples=4     # what could be found, how late?

It reads the logs that the audit reads: TRL, verl, OpenRLHF, TensorBoard, JSON lines, CSV. A panel
file has lines {"step": 10, "rates": [0.25, 1.0]}, or is a Parquet file with the columns step,
problem and reward. A run that never gets worse raises an alarm with probability at most --alpha,
however often the log is read; docs/guard.md states the assumptions. Exit codes: 0 no alarm, 2 a
mistake, 3 an alarm.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path

from absl import flags
from rich.console import Console
from rich.live import Live
from rich.table import Table

from selfreg import guard
from selfreg.integrations.watch import act, plan
from selfreg.integrations.watch.evidence import write
from selfreg.integrations.watch.follow import Followed, alone, take, words
from selfreg.integrations.watch.source import Source, Stamp, is_panel_file, read, stamp
from selfreg.run.command import Command, Exit
from selfreg.run.command import run as run_command
from selfreg.run.rundir import write_json

_ALPHA = flags.DEFINE_float("alpha", 0.05, "Largest probability of a false alarm in a whole run.")
_MARGIN = flags.DEFINE_float("margin", 0.02, "Largest fall of the mean reward that does not count.")
_COLUMN = flags.DEFINE_string("column", None, "The metric. Default: the trainer's mean reward.")
_STEP_COLUMN = flags.DEFINE_string("step_column", None, "The column that holds the step.")
_PANEL = flags.DEFINE_string("panel", None, "A panel file to watch beside one log.")
_PLANNED = flags.DEFINE_integer("planned", None, "Logged steps of the whole run, if known.")
_LOOKS = flags.DEFINE_integer("planned_looks", None, "Looks at the panel in the whole run.")
_ON_ALARM = flags.DEFINE_string(
    "on_alarm", None, "Shell command to run on alarm; SELFREG_ALARM holds the facts as JSON."
)
_WEBHOOK = flags.DEFINE_string("webhook", None, "URL that receives the facts of an alarm as JSON.")
_STOP_FILE = flags.DEFINE_string("stop_file", None, "File to write on alarm.")
_ONCE = flags.DEFINE_bool("once", False, "Read the log once and exit.")
_EVERY_S = flags.DEFINE_float("every_s", 2.0, "Seconds between reads of the files.")
_IDLE_S = flags.DEFINE_float("idle_s", 0.0, "Exit if no log grows for this many seconds; 0: never.")
_OUT = flags.DEFINE_string("out", None, "Folder for NAME.watch.html and NAME.watch.json.")
_TENSORBOARD = flags.DEFINE_string(
    "tensorboard", None, "Folder for the guard's evidence as event files, which W&B also reads."
)
_PLAN = flags.DEFINE_bool("plan", False, "Print which falls could be detected, and exit.")
_PROBLEMS = flags.DEFINE_integer("problems", 96, "For --plan: problems per look, or per step.")
_SAMPLES = flags.DEFINE_integer("samples", 4, "For --plan: completions per problem.")
_LOG_PLAN = flags.DEFINE_bool("log", False, "For --plan: plan for a log instead of a panel.")


@dataclass(frozen=True)
class Watched:
    """A run, its files, and their stamps when they were last read."""

    name: str
    sources: dict[str, Source]
    run: Followed
    stamps: dict[str, Stamp | None]
    problem: str = ""


def main(arguments: list[str]) -> int:
    """Watch the logs; returns the exit code."""
    if _PLAN.value:
        print(plan.words(_settings(_plan_source()), _PROBLEMS.value, _SAMPLES.value))
        return Exit.OK
    every = [_watched(Path(name)) for name in arguments]
    if not every:
        raise ValueError("name at least one log: selfreg watch LOG...")
    if _PANEL.value and len(every) > 1:
        raise ValueError("--panel belongs to a single log: name only one")
    return _once(every) if _ONCE.value else _follow(every)


def _plan_source() -> guard.Source:
    return guard.Source.LOG if _LOG_PLAN.value else guard.Source.PANEL


def _settings(source: guard.Source) -> guard.Settings:
    return guard.Settings(
        alpha=_ALPHA.value, margin=_MARGIN.value, planned=_LOOKS.value,
        planned_steps=_PLANNED.value, source=source,
    )  # fmt: skip


def _watched(path: Path) -> Watched:
    """Return what to watch: a log, a log with its panel, or a panel alone."""
    if is_panel_file(path):
        sources = {"panel": Source(path, is_panel=True)}
        kind = guard.Source.PANEL
    else:
        sources = {"log": Source(path, _COLUMN.value, _STEP_COLUMN.value)}
        kind = guard.Source.LOG
        if _PANEL.value:
            sources["panel"] = Source(Path(_PANEL.value), is_panel=True)
            kind = guard.Source.BOTH
    return Watched(path.resolve().name, sources, Followed(_settings(kind)), {})


def _once(every: list[Watched]) -> int:
    for watched in every:
        for source in watched.sources.values():
            if stamp(source.path) is None:
                raise ValueError(f"{source.path}: no such file")
    every = [_read(watched, is_final=True) for watched in every]
    for watched in every:
        if watched.problem:
            raise ValueError(watched.problem)
        _finish(watched)
    return Exit.ALARM if any(w.run.alarm_step is not None for w in every) else Exit.OK


def _follow(every: list[Watched]) -> int:
    """Follow the logs until one alarms, or none has grown for --idle_s; return the exit code."""
    console = Console()
    grown = time.monotonic()
    with Live(_table(every), console=console, auto_refresh=False) as live:
        while True:
            is_idle = bool(_IDLE_S.value) and time.monotonic() - grown > _IDLE_S.value
            now = [_read(watched, is_final=is_idle) for watched in every]
            if any(new.run is not old.run for new, old in zip(now, every, strict=True)):
                grown = time.monotonic()
            every = now
            live.update(_table(every), refresh=True)
            alarms = [watched for watched in every if watched.run.alarm_step is not None]
            if alarms or is_idle:
                break
            time.sleep(_EVERY_S.value)
    for watched in alarms or every:
        _finish(watched)
    return Exit.ALARM if alarms else Exit.OK


def _read(watched: Watched, *, is_final: bool) -> Watched:
    """Read the changed files; a file that cannot be read now is tried again later."""
    stamps = {name: stamp(source.path) for name, source in watched.sources.items()}
    if stamps == watched.stamps and not is_final:
        return watched
    try:
        said = {
            name: read(source, is_final=is_final) if stamps[name] is not None else {}
            for name, source in watched.sources.items()
        }
    except (ValueError, OSError) as error:
        return replace(watched, stamps=stamps, problem=str(error))
    run = take(watched.run, said)
    if run.known == watched.run.known:
        run = watched.run
    return replace(watched, run=run, stamps=stamps, problem="")


def _finish(watched: Watched) -> None:
    """Print where the run stands, write its page, and act on an alarm."""
    run = watched.run
    text = " ".join(part for part in (words(run), alone(run)) if part)
    print(f"{watched.name}: {text}")
    decision = run.decision
    facts = {
        "text": text,
        "log": watched.name,
        "alarm_step": run.alarm_step,
        "reference": decision and decision.reference,
        "fall": decision and decision.fall,
        "log_evidence": decision and max(decision.log_evidence, -1e6),
        "alpha": run.settings.alpha,
    }
    if _TENSORBOARD.value:
        write(Path(_TENSORBOARD.value) / watched.name, run)
    if _OUT.value:
        from selfreg.integrations.watch.page import page  # Matplotlib takes seconds to load

        folder = Path(_OUT.value)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{watched.name}.watch.html").write_text(page(watched.name, run, text))
        write_json(folder / f"{watched.name}.watch.json", facts)
    if run.alarm_step is not None:
        act.alarm(facts, _ON_ALARM.value, _WEBHOOK.value, _STOP_FILE.value)


def _table(every: list[Watched]) -> Table:
    table = Table()
    for column in ("log", "step", "reward", "best", "evidence, alarm at 0", "read"):
        table.add_column(column, justify="left" if column == "log" else "right")
    for watched in every:
        run = watched.run
        if run.decision is None:
            waits = watched.problem or "waiting for the log"
            table.add_row(watched.name, "-", "-", "-", "-", waits)
            continue
        last, state = run.points[-1], run.state
        best = "-" if state is None or state.best is None else f"{state.best:.3f}"
        at = f"{best} at {run.decision.reference}"
        evidence = f"{max(run.decision.log_evidence, -99.0):+.1f}"
        clock = watched.problem or time.strftime("%H:%M:%S")
        table.add_row(watched.name, str(last.step), f"{last.value:.3f}", at, evidence, clock)
    return table


def run() -> None:
    """Run the command."""
    run_command(main, Command("watch", "selfreg.watch", "LOG...", "LOG..."))


if __name__ == "__main__":
    run()
