"""Reads where a chain stands from its run folder alone: its files, its lock and its launch log.

A launcher keeps a chain's output in chain.log: a line `$ COMMAND` at each start, and a line
`= exit CODE after S s` at each end that it saw.
"""

import fcntl
import json
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from rich.console import Console
from rich.table import Table

from selfreg.run import rundir
from selfreg.run.progress import clock
from selfreg.run.records import StepRecord

LOG = "chain.log"
BEGUN, ENDED = "$ ", "= exit "
INTERRUPTED = (130, -2)  # exit codes of Ctrl-C, the second before selfreg.main can catch it
_ENDING = re.compile(rf"^{ENDED}(-?\d+) after (\d+) s$", re.MULTILINE)
_LOG_TAIL_BYTES = 20_000
_FILE_COLUMNS = 160


class State(StrEnum):
    """The state of a chain."""

    NOT_BEGUN = "not begun"
    RUNNING = "running"
    FINISHED = "finished"
    STOPPED = "stopped"  # by a person, or because its machine stopped
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a chain stands.

    Attributes:
      folder: Its run folder.
      name: config.name; "?" if it has no config yet.
      condition: config.condition; "?" if it has no config yet.
      seed: config.seed; -1 if it has no config yet.
      state: The state of the chain.
      done: The number of campaigns that have ended.
      campaigns: The number of campaigns in the chain; 0 if it has no config yet.
      step: The last recorded step of its last campaign.
      budget_steps: The most updates that this campaign may make.
      panel: The last measured pass@1 on the panel, and its standard error.
      left_s: The seconds left at the mean pace of its steps; None if unknown.
      error: The last line of the error; "" without one.
    """

    folder: Path
    name: str = "?"
    condition: str = "?"
    seed: int = -1
    state: State = State.NOT_BEGUN
    done: int = 0
    campaigns: int = 0
    step: int = 0
    budget_steps: int = 0
    panel: tuple[float, float] | None = None
    left_s: float | None = None
    error: str = ""


def find_chains(runs: Path) -> list[Path]:
    """Find the run folders at or below a folder, including runs that failed before a first step.

    Raises:
      ValueError: There is no such folder, or no run in it.
    """
    files = [file for name in (rundir.CONFIG, LOG) for file in runs.rglob(name)]
    if not files:
        raise ValueError(f"no run in {runs}: a run folder holds {rundir.CONFIG} or {LOG}")
    return sorted({file.parent for file in files})


def read_standing(folder: Path) -> Standing:
    """Read where the chain of a run folder stands; the folder may be empty."""
    running, code, error = is_running(folder), *_last_end(folder)
    failed = not running and code not in (None, 0, *INTERRUPTED)
    file = folder / rundir.CONFIG
    if not file.is_file():
        begun = (folder / LOG).is_file()
        state = State.RUNNING if running else State.STOPPED if begun else State.NOT_BEGUN
        return Standing(folder, state=State.FAILED if failed else state, error=error)
    config = json.loads(file.read_text())
    records, plans = rundir.read_records(folder), rundir.read_plans(folder)
    done, campaigns = len(rundir.read_lines(folder / rundir.CAMPAIGNS)), config["campaigns"]
    if done == campaigns:
        state = State.FINISHED
    else:
        state = State.RUNNING if running else State.FAILED if failed else State.STOPPED
    budget = plans[-1].plan.budget_steps if plans else config["campaign_budget_steps"]
    step = records[-1].step if records and records[-1].campaign == len(plans) - 1 else 0
    measured = [r.metrics for r in records if "panel_pass_at_1" in r.metrics]
    panel = [(m["panel_pass_at_1"], m["panel_pass_at_1_se"]) for m in measured[-1:]]
    return Standing(
        folder,
        config["name"],
        config["condition"],
        config["seed"],
        state,
        done,
        campaigns,
        step,
        budget,
        panel[0] if panel else None,
        _left_s(records, budget - step, campaigns - len(plans), budget) if running else None,
        error if state is State.FAILED else "",
    )


def is_running(folder: Path) -> bool:
    """Return whether a process holds the lock of the run folder, or of its launch log at first."""
    return _is_held(folder / ".lock") or _is_held(folder / LOG)


def measured_s(folder: Path) -> float | None:
    """Return the seconds of all starts of a chain, from its launch log; None without a log."""
    file = folder / LOG
    found = _ENDING.findall(file.read_text(errors="replace")) if file.is_file() else []
    return float(sum(int(seconds) for _, seconds in found)) if found else None


def table(standings: list[Standing]) -> Table:
    """Make a table with one line a chain."""
    drawn = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("name", "condition", "seed", "campaign", "step", "pass@1", "state", "left"):
        left = column in ("name", "condition", "state")
        drawn.add_column(column, justify="left" if left else "right", overflow="fold")
    for one in standings:
        campaign = min(one.done + 1, one.campaigns)
        drawn.add_row(
            one.name if one.campaigns else str(one.folder),
            one.condition if one.campaigns else "",
            str(one.seed) if one.campaigns else "",
            f"{campaign}/{one.campaigns}" if one.campaigns else "",
            f"{one.step}/{one.budget_steps}" if one.campaigns else "",
            f"{one.panel[0]:.3f} ± {one.panel[1]:.3f}" if one.panel else "",
            f"{one.state}: {one.error}" if one.error else one.state.value,
            "" if one.left_s is None else clock(one.left_s),
        )
    return drawn


def wide_console() -> Console:
    """Return the terminal's console, or one that is wide enough for a chain's line."""
    console = Console()
    return console if console.is_terminal else Console(width=_FILE_COLUMNS)


def _is_held(file: Path) -> bool:
    if not file.exists():
        return False
    with file.open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _last_end(folder: Path) -> tuple[int | None, str]:
    """Return the exit code of the last start, None if nobody saw it, and its last error line."""
    file = folder / LOG
    if not file.is_file():
        return None, ""
    with file.open("rb") as opened:
        opened.seek(max(0, file.stat().st_size - _LOG_TAIL_BYTES))
        text = opened.read().decode(errors="replace")
    _, _, last = f"\n{text}".rpartition(f"\n{BEGUN}")
    ending = _ENDING.search(last)
    if ending is None:
        return None, ""
    code = int(ending[1])
    said = [line.strip() for line in last[: ending.start()].splitlines()[1:] if line.strip()]
    errors = [line for line in said if line.startswith("error: ")]
    if said and said[-1] == "KeyboardInterrupt":  # so early that Python itself exited with 1
        code = INTERRUPTED[0]
    signal = f"ended by signal {-code}" if code < 0 else f"exit code {code}"
    line = errors[-1] if errors else said[-1] if said and code > 0 else signal
    return code, "" if code in (0, *INTERRUPTED) else line.removeprefix("error: ")


def _left_s(
    records: list[StepRecord], steps: int, campaigns_after: int, budget: int
) -> float | None:
    """Estimate the seconds left at the mean pace of steps that compiled nothing.

    Later campaigns count as long as this one.
    """
    paces = [
        r.metrics["time/step_s"]
        for r in records
        if "time/step_s" in r.metrics and not r.metrics.get("compiles")
    ]
    if not paces:
        return None
    return sum(paces) / len(paces) * (steps + campaigns_after * (budget + 1))
