"""Helpers for browser tests: a headless browser, and stored completions to show in it."""

import shutil
import subprocess
from pathlib import Path

import numpy as np

from selfreg.run import rundir
from selfreg.run.records import FinishReason, Grade, Group, Outcome, Problem, Rollout, Tests

CHROMIUM = shutil.which("chromium")


def keep(folder, step, stream, programs, *, campaign=0, outcome=Outcome.FAILED, detail="line 1"):
    """Store completions: programs[problem id] lists one program per sample.

    A program that starts with "ok" counts as passed.
    """
    groups = []
    for name, own in programs.items():
        rollouts = tuple(
            Rollout(
                np.arange(3, dtype=np.int32), np.arange(4, dtype=np.int32),
                np.zeros(4, np.float32), program, FinishReason.STOP,
            )
            for program in own
        )  # fmt: skip
        grades = tuple(
            Grade(Outcome.PASSED) if p.startswith("ok") else Grade(outcome, 0.0, detail)
            for p in own
        )
        problem = Problem(name, f"solve {name}", Tests(code="assert f(1) == 2"))
        groups.append(Group(problem, rollouts, tuple(own), grades))
    rundir.write_completions(rundir.completions_file(folder, campaign, step, stream), groups)


def dump(file: Path, fragment: str, profile: Path, *options: str) -> str:
    """Return the page's DOM after its script has run in a browser."""
    command = [str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += ["--virtual-time-budget=10000", f"--user-data-dir={profile}", *options]
    result = subprocess.run(
        [*command, f"file://{file}{fragment}"], capture_output=True, text=True, timeout=120
    )
    return result.stdout
