"""The command `selfreg`. Each verb runs a module that `python -m` can also run.

This module imports no library, so that `selfreg --help` answers at once.
"""

import difflib
import importlib
import sys
from typing import NamedTuple


class Verb(NamedTuple):
    """A verb of the command line.

    Attributes:
      module: The module whose `run` is called.
      line: One line for the list of verbs.
      group: The heading in that list.
    """

    module: str
    line: str
    group: str


_RUN, _READ, _POLICY, _LOGS, _TOOLS = (
    "Run chains",
    "Read finished or running chains",
    "Policies and checkpoints",
    "Logs of any trainer",
    "Set-up",
)

VERBS = {
    "plan": Verb("selfreg.cli.plan.__main__", "Estimate a config's memory and hours.", _RUN),
    "train": Verb("selfreg.cli.main", "Run or resume one chain of campaigns.", _RUN),
    "sweep": Verb("launch.sweep", "Run all chains of a wave, here or on SLURM.", _RUN),
    "status": Verb("selfreg.cli.status", "Show which chains run, ended or failed.", _RUN),
    "analyze": Verb("selfreg.analysis.__main__", "Judge and compare all runs in a folder.", _READ),
    "replay": Verb(
        "selfreg.cli.replay.__main__", "Ask other controls about a stored chain.", _READ
    ),
    "regrade": Verb("selfreg.grading.audit", "Grade stored programs again.", _READ),
    "evaluate": Verb("selfreg.cli.evaluate", "Measure the pass@1 of a policy.", _POLICY),
    "export": Verb("selfreg.cli.export", "Write a checkpoint as a Hugging Face folder.", _POLICY),
    "promote": Verb("selfreg.cli.promote", "Decide if a checkpoint may replace another.", _POLICY),
    "audit": Verb(
        "selfreg.integrations.audit.__main__", "Decide if a logged run collapsed.", _LOGS
    ),
    "watch": Verb(
        "selfreg.integrations.watch.__main__", "Follow a log, and alarm on a collapse.", _LOGS
    ),
    "data": Verb("selfreg.cli.data_check", "Check and compare problem sets.", _TOOLS),
    "doctor": Verb("selfreg.grading.doctor", "Test what isolates programs here.", _TOOLS),
    "calibrate": Verb(
        "selfreg.cli.calibrate.__main__", "Calibrate the collapse predictor.", _TOOLS
    ),
    "pretrain": Verb("selfreg.cli.pretrain", "Make the tiny policy anew.", _TOOLS),
}


def run() -> None:
    """Run the verb that the command line names. This is the console script's entry point."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:2], "--help", *arguments[2:]]
    name, *rest = arguments or ["--help"]
    if name in ("--help", "-h", "-help"):
        print(overview())
    elif name == "--version":
        from selfreg import __version__

        print(f"selfreg {__version__}")
    elif name in VERBS:
        sys.argv = [f"selfreg {name}", *rest]  # the name in messages and in the manifest
        importlib.import_module(VERBS[name].module).run()
    else:
        print(f"error: {_unknown(name)}", file=sys.stderr)
        sys.exit(2)


def overview() -> str:
    """Return the list of verbs by group, with one line for each."""
    lines = [
        "Study, detect and prevent rise-and-collapse in LLM self-training.",
        "",
        "usage: selfreg VERB [--FLAG=VALUE ...]",
        "       selfreg VERB --help [WORD]    all about a verb, or only what holds a word",
        "       selfreg --version",
    ]
    width = max(map(len, VERBS))
    for group in dict.fromkeys(verb.group for verb in VERBS.values()):
        lines += ["", f"{group}:"]
        lines += [
            f"  {name:<{width}}  {verb.line}" for name, verb in VERBS.items() if verb.group == group
        ]
    return "\n".join(lines)


def _unknown(name: str) -> str:
    if name.startswith("-"):
        train = " such as selfreg train" if name.startswith("--config") else ""
        return f"{name} stands where a verb must: name one first{train} (selfreg --help lists them)"
    close = difflib.get_close_matches(name, VERBS, n=1, cutoff=0.4)
    meant = f"; did you mean {close[0]}?" if close else ""
    return f"there is no verb {name!r}{meant} (selfreg --help lists them)"
