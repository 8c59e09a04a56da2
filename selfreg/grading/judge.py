"""The judge: a trusted process that runs tests while the program runs in a child of the zygote.

Tests hold proxies of the program's objects (`proxies.py`) and compare plain data. A program passes
if its tests ran to their end in the judge and called the program. No exit status, output or object
of the program counts as evidence for a pass. The judge ends when its connection to the pool closes.
"""

import contextlib
import gc
import os
import signal
import socket
import sys
import types
from collections.abc import Callable
from typing import Any, NamedTuple

from selfreg.grading import (
    boot,
    calls,
    checkers,
    cpp,
    layers,
    namespaces,
    outputs,
    sandbox,
    sources,
    wire,
)
from selfreg.grading.child import (
    Child,
    ChildOver,
    Ended,
    JailError,
    Zygote,
    contents,
    memory_file,
)
from selfreg.grading.functions import TestsError, grade_functions
from selfreg.grading.headers import Settings
from selfreg.grading.remote import DEEP
from selfreg.grading.replies import Reply, make_reply, split_report
from selfreg.grading.sandbox import Limits
from selfreg.grading.system import count_tasks, last_words, powers
from selfreg.grading.threads import HOST_PROC
from selfreg.grading.values import dump

_MOST_BYTES = 1 << 30
# A program that only waits (it sleeps, or is deadlocked) is stopped after its CPU limit plus this.
_WAIT_EXTRA_S = 1.0
# A script may write this much more than the longest expected output.
_OUTPUT_EXTRA_MB = 16

_FIRST_USER = 1 << 24  # far above the user ids that a system assigns
# The most processes and threads of a worker. If the worker shares its user, the second limit
# applies, on top of the tasks that the user has already.
_TASKS, _MORE_TASKS = 256, 1024
# CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_SETGID and CAP_SETUID; CAP_DAC_READ_SEARCH.
_CHANGE_USER, _READ_ALL = 1 << 0 | 1 << 1 | 1 << 6 | 1 << 7, 1 << 2


def main(channel: int) -> None:
    """Serve the pool on the open connection with the descriptor `channel`."""
    sys.setrecursionlimit(DEEP)
    os.umask(0o022)  # its zygote reads the judge's files, perhaps as another user
    connection = socket.socket(fileno=channel)
    config = wire.receive(connection, _MOST_BYTES)
    if config is None:
        return
    try:
        place = _isolate(config)
    except OSError as error:
        wire.send(connection, {"unavailable": str(error)})
        return
    zygote = _start_zygote(config, channel, place)
    with last_words(sandbox.OPEN_FILES - 1), contextlib.suppress(ConnectionError):
        held = layers.probe(zygote)
        toolchain = cpp.Toolchain(Settings(**config["cpp"]), zygote)
        gc.freeze()
        wire.send(connection, {"layers": held})
        cases: list[Any] = []
        while (job := wire.receive(connection, _MOST_BYTES)) is not None:
            # None stands for the cases of the previous job.
            cases = job["stdio"] = cases if job["stdio"] is None else job["stdio"]
            wire.send(connection, grade(job, zygote, toolchain))


class _Place(NamedTuple):
    """Where programs run: scratch folder, user (None: the judge's), `reads_all` of drop_powers."""

    scratch: str
    user: int | None
    reads_all: bool = False


def _isolate(config: dict[str, Any]) -> _Place:
    """Enter the isolation that the configuration names.

    Raises:
      OSError: This machine has no such isolation.
    """
    isolation, settings = config["isolation"], Settings(**config["cpp"])
    if config["core"] is not None:
        os.sched_setaffinity(0, {config["core"]})
    held, scratch = powers(), config["scratch"]
    user = _FIRST_USER + os.getpid() if held & _CHANGE_USER == _CHANGE_USER else None
    if isolation not in ("ns", "userns"):
        needed = (scratch, settings.compiler or "/")
        if user is None or not all(map(_is_public, needed)):
            return _Place(scratch, None)
        reads_all = not _is_public(os.__file__)
        if reads_all and not held & _READ_ALL:
            return _Place(scratch, None)
        os.chown(scratch, user, user)
        return _Place(scratch, user, reads_all)
    if isolation == "userns" and not namespaces.enter_user(user):
        user = None
    namespaces.enter(
        scratch,
        (*sandbox.visible(settings.compiler), boot.FOLDER, *_modules_folder(config)),
        writable=settings.folder,
        owner=os.geteuid() if user is None else user,
    )
    return _Place(namespaces.SCRATCH, user)


def _modules_folder(config: dict[str, Any]) -> tuple[str, ...]:
    folder = config["modules"]["folder"]
    return (folder,) if folder else ()


def _is_public(path: str) -> bool:
    """Whether all users can reach this path."""
    path = os.path.realpath(path)
    while path != (path := os.path.dirname(path)):
        if not os.stat(path).st_mode & 0o001:
            return False
    return True


def _start_zygote(config: dict[str, Any], channel: int, place: _Place) -> Zygote:
    """Start the zygote, then drop the privileges that only its start needed."""
    settings = Settings(**config["cpp"])
    facts = {
        **place._asdict(),
        "has_quota": place.scratch == namespaces.SCRATCH,
        "tasks": _TASKS if place.user is not None else _MORE_TASKS + count_tasks(HOST_PROC),
        # The kernel does not limit the number of root's tasks, so that the zygote counts its
        # threads.
        "threads": _TASKS if place.user is None and os.geteuid() == 0 else 0,
        "compiler": settings.compiler,
        "readable": [settings.headers],
        "modules": config["modules"],
    }
    zygote = Zygote(boot.command(config["interpreter"], "zygote"), facts, channel)
    sys.path += _modules_folder(config)
    os.environ.update(boot.ONE_THREAD)
    readable = (boot.FOLDER, *_modules_folder(config))
    sandbox.confine_judge(readable, settings.folder, host_proc=HOST_PROC)
    return zygote


def grade(job: dict[str, Any], zygote: Zygote, toolchain: cpp.Toolchain) -> Reply:
    """Grade one job of the pool, and return `outcome`, `time_s`, `peak_mb` and `detail`."""
    cpu_s = job["time_limit_s"]
    longest = max(
        (len(text) for _, *right in job["stdio"] for text in (right[0], *right[1])), default=0
    )
    output_mb = _OUTPUT_EXTRA_MB + (longest >> 20)
    limits = Limits(cpu_s, cpu_s + _WAIT_EXTRA_S, job["memory_limit_mb"], output_mb)
    try:
        if job["language"] == "cpp":
            return _grade_cpp(job, limits, zygote, toolchain)
        if job["stdio"]:
            return _grade_script(job, limits, zygote, toolchain)
        return grade_functions(job, limits, zygote)
    except cpp.CompileError as error:
        return make_reply("compile_error", str(error))
    except (TestsError, checkers.CheckerError) as error:
        return make_reply("test_error", str(error))
    except (JailError, cpp.ToolchainError) as error:
        return make_reply("infra_error", str(error))
    except ConnectionError:
        raise
    except Exception as error:  # a fault of the judge or of the program: the pool finds out which
        return make_reply("infra_error", f"the judge failed: {error!r}")


# --- Programs with standard input and output, and compiled ones -----------------------------------


def _grade_script(
    job: dict[str, Any], limits: Limits, zygote: Zygote, toolchain: cpp.Toolchain
) -> Reply:
    task = dump({"program": job["program"], "setup": job["setup"]})

    def run(files: dict[str, int]) -> tuple[Ended, bytes, bytes]:
        child = Child(zygote, limits, files=files)
        with contextlib.suppress(ChildOver):
            child.send(task)
        report = child.report()
        return child.end(), report, b""

    return _grade_cases(job, run, limits, zygote, toolchain)


def _grade_cpp(
    job: dict[str, Any], limits: Limits, zygote: Zygote, toolchain: cpp.Toolchain
) -> Reply:
    toolchain = toolchain.by_standard(job["cpp_standard"])
    if job["stdio"]:
        binary = toolchain.build_program(job["setup"], job["program"])

        def run(files: dict[str, int]) -> tuple[Ended, bytes, bytes]:
            with toolchain.run(binary, limits, files) as running:
                report = running.child.report()
                return running.child.end(), report, contents(running.stderr)

        return _grade_cases(job, run, limits, zygote, toolchain)
    setup, name = job["setup"], job["entry_point"] or ""
    declared = sources.declare(tuple(job["declares"]), name)
    declaration = declared or sources.declare_plainly(job["program"], name)
    if declaration is None:
        raise cpp.CompileError(
            f"neither the starter nor the solution of the problem declares {name!r}, and the "
            "program does not declare it with plain types of the standard library"
        )
    try:
        tests = toolchain.build_tests(setup, declaration, job["code"])
    except cpp.CompileError as error:
        if declared is None:
            raise
        raise TestsError(f"the tests do not compile without a program: {error}") from error
    program = toolchain.build_function(setup, declaration, job["program"])
    outcome, detail, ended, errors = calls.run_tests(toolchain, tests, program, limits)
    if not outcome:
        failure = _failure(ended, b"", errors)
        outcome, detail = failure or ("exception", "ended before its tests did")
    return make_reply(outcome, detail, ended)


def _grade_cases(
    job: dict[str, Any],
    run: Callable[[dict[str, int]], tuple[Ended, bytes, bytes]],
    limits: Limits,
    zygote: Zygote,
    toolchain: cpp.Toolchain,
) -> Reply:
    """Run a program on its cases until one fails. Each case has the whole time limit."""
    cpu_s = peak_mb = 0.0
    checker: Any = types.SimpleNamespace(**job["checker"])
    check = checkers.make_check(checker, zygote, toolchain) if checker.program else None
    for number, case in enumerate(job["stdio"], 1):
        given, wanted, *others = (_bytes(text) for text in (*case[:2], *case[2]))
        with memory_file(given) as stdin, memory_file() as stdout:
            ended, report, errors = run({"stdin": stdin, "stdout": stdout})
            output = contents(stdout)
        cpu_s, peak_mb = cpu_s + ended.cpu_s, max(peak_mb, ended.peak_mb)
        failure = _failure(ended, report, errors)
        if not ended.timed_out and len(output) >= limits.file_mb << 20:
            failure = "wrong_output", f"wrote more than {limits.file_mb} MiB"
        if not failure and check:
            failure = check(given, output, wanted)
        elif not failure:
            failure = outputs.difference(output, wanted, checker, others)
        if failure:
            return make_reply(failure[0], f"case {number}: {failure[1]}", None, cpu_s, peak_mb)
    return make_reply("passed", "", None, cpu_s, peak_mb)


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


def _failure(ended: Ended, report: bytes, errors: bytes) -> tuple[str, str] | None:
    """Return the outcome and the detail of a program that ended badly; None if it ended well.

    The program controls its report and its errors. They can choose between kinds of failure, and
    are never taken for a pass.
    """
    if ended.timed_out:
        return "timeout", ended.timed_out
    outcome, detail = split_report(report.decode(errors="replace"))
    if detail or outcome != "exception":
        return outcome, detail
    if ended.status == 0:
        return None
    last_line = errors.decode(errors="replace").strip().rpartition("\n")[2]
    if b"std::bad_alloc" in errors:
        return "memory", last_line
    if ended.status == -signal.SIGABRT and b"Assertion " in errors:
        return "failed", last_line
    return "exception", f"{ended.cause} {last_line}"
