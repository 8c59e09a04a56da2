"""How chains stand, from their run folders: which run, which have ended and why, and what is left.

python -m selfreg.status --runs=runs
python -m selfreg.status --runs=runs --live
"""

import sys
import time
from pathlib import Path

from absl import app, flags
from rich.live import Live

from selfreg.run.standing import find_chains, read_standing, table, wide_console

_RUNS = flags.DEFINE_string("runs", "runs", "A folder of run folders.")
_LIVE = flags.DEFINE_bool("live", False, "Go on until Ctrl-C.")
_PAUSE_S = 2.0


def main(_: list[str]) -> None:
    """Print the table, once or again and again."""
    runs, console = Path(_RUNS.value), wide_console()
    try:
        shown = table([read_standing(folder) for folder in find_chains(runs)])
        if not _LIVE.value:
            console.print(shown)
            return
        with Live(shown, console=console, screen=False, auto_refresh=False) as live:
            while True:
                time.sleep(_PAUSE_S)
                chains = [read_standing(folder) for folder in find_chains(runs)]
                live.update(table(chains), refresh=True)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    app.run(main)
