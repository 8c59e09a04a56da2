"""Show the state of chains: which are running, which ended and why, and the time that is left.

selfreg status --runs=runs
selfreg status --runs=runs --live
"""

import time
from contextlib import suppress
from pathlib import Path

from absl import flags
from rich.live import Live

from selfreg.run.command import Command
from selfreg.run.command import run as run_command
from selfreg.run.standing import find_chains, read_standing, table, wide_console

_RUNS = flags.DEFINE_string("runs", "runs", "A folder of run folders.")
_LIVE = flags.DEFINE_bool("live", False, "Keep the table up to date until Ctrl-C.")
_PAUSE_S = 2.0


def main(_: list[str]) -> None:
    """Print the table, once or until Ctrl-C."""
    runs, console = Path(_RUNS.value), wide_console()
    shown = table([read_standing(folder) for folder in find_chains(runs)])
    if not _LIVE.value:
        console.print(shown)
        return
    # Ctrl-C is the normal way to end the live table, not a failure.
    with (
        suppress(KeyboardInterrupt),
        Live(shown, console=console, screen=False, auto_refresh=False) as live,
    ):
        while True:
            time.sleep(_PAUSE_S)
            chains = [read_standing(folder) for folder in find_chains(runs)]
            live.update(table(chains), refresh=True)


def run() -> None:
    """Run the command."""
    run_command(main, Command("status", "selfreg.status", "--runs=FOLDER"))


if __name__ == "__main__":
    run()
