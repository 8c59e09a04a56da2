"""Run selfreg.main in a process that dies by SIGKILL at a named point, once for each point.

    echo POINT:NTH --workdir=FOLDER | python tests/killed_run.py <flags of selfreg.main>

Points come on stdin, one per line, each followed by the flags of its run only. `none` runs to the
end, and `interrupted` sends SIGINT instead. Points are implemented by wrapping functions that the
run calls, so the package contains no code for them. Each run is a process, forked once the
libraries are loaded and before JAX starts to work. Its exit code is printed as a line, and its
output goes to stderr.
"""

import importlib
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from selfreg.cli import main  # noqa: TID251 this is a command too
from selfreg.data.problems import load_problems

SOURCE = "procedural:main"  # faster to make than train; its panels are held out of itself


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before(function: Callable[..., Any], nth: int) -> Callable[..., Any]:
    """Die instead of the nth call."""
    calls = 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == nth:
            die()
        return function(*args, **kwargs)

    return wrapped


def after(
    function: Callable[..., Any], nth: int, end: Callable[[], None] = die
) -> Callable[..., Any]:
    """Die when the nth call has returned."""
    calls = 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        result = function(*args, **kwargs)
        if calls == nth:
            end()
        return result

    return wrapped


def torn(file: Any, value: Any) -> None:
    """Write half a line, then die."""
    with file.open("a") as opened:
        opened.write('{"campaign": 0, "st')
        opened.flush()
        die()


def arm(point: str, nth: int) -> None:
    """Wrap the function that the point names."""
    from selfreg.grading import GraderPool
    from selfreg.loop import campaign
    from selfreg.policy.rollout.jax_engine import JaxEngine
    from selfreg.run import rundir
    from selfreg.run.checkpoint import Checkpoints
    from selfreg.run.runlog import RunLog

    if point == "sampling":
        JaxEngine.generate = before(JaxEngine.generate, nth)
    elif point == "grading":
        GraderPool.grade = before(GraderPool.grade, nth)
    elif point == "updated":
        campaign.update = after(campaign.update, nth)
    elif point == "interrupted":  # Ctrl-C is pressed during the nth update
        campaign.update = after(campaign.update, nth, lambda: os.kill(os.getpid(), signal.SIGINT))
    elif point == "saving":  # the save has returned, and its thread is still writing
        Checkpoints.save = after(Checkpoints.save, nth)
    elif point == "recording":
        calls = 0
        append = rundir.append_line

        def maybe_torn(file: Any, value: Any) -> None:
            nonlocal calls
            calls += 1
            (torn if calls == nth else append)(file, value)

        rundir.append_line = maybe_torn
    elif point == "ending":  # the campaign has ended, but its summary is not written
        RunLog.finish_campaign = before(RunLog.finish_campaign, nth)
    elif point == "between":
        RunLog.finish_campaign = after(RunLog.finish_campaign, nth)
    elif point != "none":
        raise SystemExit(f"unknown point {point}")


def run(point: str, *flags: str) -> None:
    """Run once, in this process."""
    name, nth = point.split(":")
    arm(name, int(nth))
    sys.argv += flags
    main.run()


def load() -> None:
    """Load what every run needs first: the libraries and the problems."""
    for name in ("selfreg.loop.campaign", "selfreg.analysis.report"):
        importlib.import_module(name)
    load_problems(SOURCE)


def run_forked(line: str) -> int:
    """Run once in a separate process, and return its exit code."""
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    run(*line.split())
    raise AssertionError("absl's app.run does not return")


if __name__ == "__main__":
    sys.argv += [f"--config.problems.train={SOURCE}", "--config.problems.held_out="]
    with open(os.dup(1), "w", buffering=1) as codes:
        os.dup2(2, 1)
        load()
        for line in sys.stdin:
            print(run_forked(line), file=codes)
