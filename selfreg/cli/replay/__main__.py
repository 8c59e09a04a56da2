"""Print what other controls would have decided on a stored chain. Nothing is trained.

    selfreg replay --run=runs/tiny/A0/seed_7 --condition=ONLINE
    selfreg replay --run=runs/tiny/A0/seed_7 --within=my_control.py --out=decisions.json

Without --condition, --within and --between, the command replays the run's own controls. Controls
get the options of the run's config. The update rule of a condition has no effect, because the
samples are already drawn. No language model is queried.
"""

from pathlib import Path

from absl import flags
from rich.console import Console

from selfreg.analysis.load import load_run
from selfreg.cli.replay.stored import decisions, table_of, with_controls
from selfreg.run import rundir
from selfreg.run.command import Command
from selfreg.run.command import run as run_command

_RUN = flags.DEFINE_string("run", None, "A run folder.")
_CONDITION = flags.DEFINE_string("condition", None, "The condition whose controls to replay.")
_WITHIN = flags.DEFINE_string("within", None, "A control within campaigns: a name or a file.")
_BETWEEN = flags.DEFINE_string("between", None, "A control between campaigns: a name or a file.")
_OUT = flags.DEFINE_string("out", None, "A JSON file to write.")

NOTE = (
    "A replay says what the controls would have decided on these traces, not what would have "
    "happened: every campaign ran, and the next one started, as the run's own controls had it."
)


def main(_: list[str]) -> None:
    """Print what the controls would have decided, and write it to --out."""
    console = Console()
    try:
        if _RUN.value is None:
            raise ValueError(
                "--run is missing: name a run folder, such as --run=runs/tiny/A0/seed_7"
            )
        run = load_run(Path(_RUN.value))
        config = with_controls(run.config, _CONDITION.value, _WITHIN.value, _BETWEEN.value)
        decided, after = decisions(run, config)
        asked = f"within: {config['within']}, between: {config['between']}"
        console.print(table_of(run, decided, after, f"{run.folder} under {asked}"))
        console.print(NOTE, soft_wrap=True)
        if _OUT.value:
            controls = {name: config[name] for name in ("within", "between", "control")}
            rundir.write_json(
                Path(_OUT.value),
                {
                    "run": str(run.folder),
                    **controls,
                    "decided": decided,
                    "next": after,
                    "note": NOTE,
                },
            )
    except KeyError as error:
        raise ValueError(f"another version of selfreg wrote this run: no {error}") from None


def run() -> None:
    """Run the command."""
    run_command(main, Command("replay", "selfreg.replay", "--run=RUN --condition=CONDITION"))


if __name__ == "__main__":
    run()
