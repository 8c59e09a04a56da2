"""How a chain stands, read from its run folder alone: its files, its lock and its launch log.

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
INTERRUPTED = (130, -2)  # Ctrl-C, and Ctrl-C before selfreg.main could catch it
_ENDING = re.compile(rf"^{ENDED}(-?\d+) after (\d+) s$", re.MULTILINE)
_LOG_TAIL_BYTES = 20_000
_FILE_COLUMNS = 160


class State(StrEnum):
    """Whether a chain goes on."""

    NOT_BEGUN = "not begun"
    RUNNING = "running"
    FINISHED = "finished"
    STOPPED = "stopped"  # by a person, or with its machine
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a chain stands.

    Attributes:
      folder: Its run folder.
      name: config.name; "?" where it has no config yet.
      condition: config.condition; ditto.
      seed: config.seed; -1 where it has no config yet.
      state: Whether it goes on.
      done: Campaigns that have ended.
      campaigns: In the chain; 0 where it has no config yet.
      step: The last one that is recorded, of its last campaign.
      budget_steps: Updates that this campaign may make.
      panel: pass@1 on the panel and its standard error, when last measured.
      left_s: Seconds that it still takes at the mean pace of its steps; None: nobody knows.
      error: The last line of what went wrong; "" where nothing did.
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
    """The run folders at or below a folder, those included that failed before their first step.

    Raises:
      ValueError: There is no such folder, or no run in it.
    """
    files = [file for name in (rundir.CONFIG, LOG) for file in runs.rglob(name)]
    if not files:
        raise ValueError(f"no run in {runs}: a run folder holds {rundir.CONFIG} or {LOG}")
    return sorted({file.parent for file in files})


def read_standing(folder: Path) -> Standing:
    """How the chain of a run folder stands; there may be nothing in it."""
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
    """Whether a process holds the run folder's lock, or its launch log's while it still loads."""
    return _is_held(folder / ".lock") or _is_held(folder / LOG)


def measured_s(folder: Path) -> float | None:
    """Seconds that a chain took over all its starts, as its launch log has them; None: no log."""
    file = folder / LOG
    found = _ENDING.findall(file.read_text(errors="replace")) if file.is_file() else []
    return float(sum(int(seconds) for _, seconds in found)) if found else None


def table(standings: list[Standing]) -> Table:
    """One line a chain."""
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
    """The terminal; elsewhere wide enough for a chain's whole line."""
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
    """How the last start ended: its exit code, None if nobody saw it, and its last error line."""
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
    if said and said[-1] == "KeyboardInterrupt":  # so early that Python itself ended with 1
        code = INTERRUPTED[0]
    signal = f"ended by signal {-code}" if code < 0 else f"exit code {code}"
    line = errors[-1] if errors else said[-1] if said and code > 0 else signal
    return code, "" if code in (0, *INTERRUPTED) else line.removeprefix("error: ")


def _left_s(
    records: list[StepRecord], steps: int, campaigns_after: int, budget: int
) -> float | None:
    """At the mean pace of the steps that compiled nothing; later campaigns as long as this one."""
    paces = [
        r.metrics["time/step_s"]
        for r in records
        if "time/step_s" in r.metrics and not r.metrics.get("compiles")
    ]
    if not paces:
        return None
    return sum(paces) / len(paces) * (steps + campaigns_after * (budget + 1))
