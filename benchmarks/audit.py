"""Measure the cost of auditing a log: seconds, CPU seconds and peak memory, by rows and format.

    python -m benchmarks.audit
    python -m benchmarks.audit --rows=200,20000 --forms=csv

Each line is one run of the audit command in a separate process, including start-up, plot and JSON.
The log has a mean reward of 64 samples that rises and collapses, and six other metrics.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from absl import app, flags

_ROWS = flags.DEFINE_list("rows", ["200", "20000", "1000000"], "Numbers of rows in the logs.")
_FORMS = flags.DEFINE_list("forms", ["jsonl", "csv", "verl", "tensorboard"], "Formats to audit.")
_NAMES = ("entropy", "kl", "grad_norm", "lr", "loss", "completion_length")


def _values(rows: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    levels = np.interp(np.arange(rows), [0, 0.7 * rows, rows], [0.2, 0.7, 0.1])
    return rng.binomial(64, levels) / 64, rng.random((rows, len(_NAMES))).round(5)


def _jsonl(folder: Path, rows: int) -> Path:
    with (folder / "run.jsonl").open("w") as file:
        for i, (reward, others) in enumerate(zip(*_values(rows), strict=True)):
            row = {"step": i, "reward": reward, **dict(zip(_NAMES, others, strict=True))}
            file.write(json.dumps(row) + "\n")
    return folder / "run.jsonl"


def _csv(folder: Path, rows: int) -> Path:
    with (folder / "run.csv").open("w") as file:
        file.write(f"step,reward,{','.join(_NAMES)}\n")
        for i, (reward, others) in enumerate(zip(*_values(rows), strict=True)):
            file.write(f"{i},{reward},{','.join(map(str, others))}\n")
    return folder / "run.csv"


def _verl(folder: Path, rows: int) -> Path:
    with (folder / "run.log").open("w") as file:
        for i, (reward, others) in enumerate(zip(*_values(rows), strict=True)):
            pairs = " - ".join(f"actor/{n}:{v}" for n, v in zip(_NAMES, others, strict=True))
            file.write(f"(TaskRunner pid=1) step:{i} - critic/score/mean:{reward} - {pairs}\n")
    return folder / "run.log"


def _tensorboard(folder: Path, rows: int) -> Path:
    from tensorboardX import SummaryWriter

    with SummaryWriter(str(folder / "tb")) as writer:
        for i, (reward, others) in enumerate(zip(*_values(rows), strict=True)):
            writer.add_scalar("reward", reward, i)
            writer.add_scalar("kl", others[1], i)
    return folder / "tb"


_WRITERS: dict[str, Callable[[Path, int], Path]] = {
    "jsonl": _jsonl, "csv": _csv, "verl": _verl, "tensorboard": _tensorboard,
}  # fmt: skip


def _measure(arguments: list[str]) -> tuple[float, float, float]:
    """Run an audit process, and return its seconds, CPU seconds and peak MB.

    Raises:
      RuntimeError: The audit failed.
    """
    start = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.execv(sys.executable, [sys.executable, "-m", "selfreg.audit", *arguments])
    _, status, usage = os.wait4(pid, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        raise RuntimeError(f"the audit failed: {arguments}")
    seconds = time.perf_counter() - start
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main(_: list[str]) -> None:
    print("form         rows       seconds      CPU     MB")
    for form in _FORMS.value:
        for rows in map(int, _ROWS.value):
            if form == "tensorboard" and rows > 100_000:
                continue  # writing such an event file takes minutes
            with tempfile.TemporaryDirectory() as folder:
                log = _WRITERS[form](Path(folder), rows)
                seconds, cpu, megabytes = _measure([str(log), f"--out={folder}/out"])
                print(
                    f"{form:<12} {rows:<10,} {seconds:7.2f}  {cpu:7.2f}  {megabytes:5.0f}",
                    flush=True,
                )


if __name__ == "__main__":
    app.run(main)
