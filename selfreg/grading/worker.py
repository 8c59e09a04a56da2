"""A worker: a fresh, warm interpreter that grades one program after another, each in its own child.

It is never forked from the trainer, which may hold gigabytes, and it runs nothing hostile itself.
It ends when its connection to the pool does.
"""

import contextlib
import functools
import gc
import importlib
import os
import signal
import socket
import sys
from collections.abc import Callable
from types import CodeType
from typing import Any

from selfreg.grading import child, cpp, layers, python, sandbox, wire
from selfreg.grading.child import CHANNEL_FD, Ended, JailError, contents, memory_file
from selfreg.grading.sandbox import Jail, Limits

_MOST_BYTES = 1 << 30
# A program that only waits (it sleeps, or is deadlocked) has its CPU limit and this to end.
_WAIT_EXTRA_S = 1.0

# What programs import most: from here every child has it for nothing.
_WARM = """
array base64 bisect calendar cmath collections.abc contextlib copy csv dataclasses datetime decimal
enum fractions functools hashlib heapq inspect io itertools json math numbers operator os.path
queue random re statistics string struct textwrap threading time traceback types typing zlib
"""

_Reply = dict[str, Any]


class TestsError(Exception):
    """The tests themselves do not parse: not the program's doing."""


def main(channel: int) -> None:
    """Serve the pool on the connection that is open with number `channel`."""
    os.dup2(channel, CHANNEL_FD)
    if channel != CHANNEL_FD:
        os.close(channel)
    os.environ.clear()
    connection = socket.socket(fileno=CHANNEL_FD)
    config = wire.receive(connection, _MOST_BYTES)
    if config is None:
        return
    scratch = config["scratch"]
    sandbox.confine_worker(scratch)
    jail = sandbox.program_jail(scratch, may_exec=False)
    toolchain = cpp.Toolchain(cpp.Settings(**config["cpp"]), scratch)
    _warm_up()
    with contextlib.suppress(ConnectionError):
        held = layers.probe(jail)
        sandbox.empty_folder(scratch)
        wire.send(connection, {"layers": held})
        while (job := wire.receive(connection, _MOST_BYTES)) is not None:
            reply = grade(job, jail, toolchain)
            sandbox.empty_folder(scratch)
            wire.send(connection, reply)


def grade(job: dict[str, Any], jail: Jail, toolchain: cpp.Toolchain) -> _Reply:
    """Grade one job of the pool: a reply with `outcome`, `time_s` and `detail`."""
    cpu_s = job["time_limit_s"]
    limits = Limits(cpu_s, cpu_s + _WAIT_EXTRA_S, job["memory_limit_mb"])
    try:
        if job["language"] == "cpp":
            return _grade_cpp(job, limits, toolchain)
        return _grade_python(job, limits, jail)
    except cpp.CompileError as error:
        return _reply("compile_error", 0.0, str(error))
    except (JailError, cpp.ToolchainError, TestsError) as error:
        return _reply("infra_error", 0.0, str(error))


def _grade_python(job: dict[str, Any], limits: Limits, jail: Jail) -> _Reply:
    if job["stdio"]:
        script = functools.partial(python.run_as_script, job["program"])

        def run(stdin: int, stdout: int) -> tuple[Ended, bytes]:
            return child.run(script, jail, limits, stdin=stdin, stdout=stdout), b""

        return _grade_cases(job["stdio"], run, limits)
    setup, tests = _parse(job["setup"], "setup.py"), _parse(job["code"], python.TESTS)
    # Inside of an object of C the token does not show among the values of the frames.
    passed = functools.partial(os.write, CHANNEL_FD, os.urandom(16))
    action = functools.partial(python.pass_tests, setup, job["program"], tests, passed)
    return _judge_tests(child.run(action, jail, limits), b"", passed.args[-1])


def _grade_cpp(job: dict[str, Any], limits: Limits, toolchain: cpp.Toolchain) -> _Reply:
    binary = toolchain.build(job["setup"], job["program"], job["code"])
    if not job["stdio"]:
        return _judge_tests(*toolchain.run(binary, limits), toolchain.token)
    return _grade_cases(job["stdio"], functools.partial(toolchain.run, binary, limits), limits)


def _judge_tests(ended: Ended, errors: bytes, token: bytes) -> _Reply:
    if not ended.timed_out and ended.report == token:
        return _reply("passed", ended.cpu_s)
    outcome, detail = _failure(ended, errors) or ("exception", "ended before its tests did")
    return _reply(outcome, ended.cpu_s, detail)


def _grade_cases(
    cases: list[tuple[str, str]],
    run: Callable[[int, int], tuple[Ended, bytes]],
    limits: Limits,
) -> _Reply:
    """Run a program on its cases until one fails; each case has the whole time limit."""
    cpu_s = 0.0
    for number, (given, wanted) in enumerate(cases, 1):
        with memory_file(given.encode(errors="surrogatepass")) as stdin, memory_file() as stdout:
            ended, errors = run(stdin, stdout)
            output = contents(stdout)
        cpu_s += ended.cpu_s
        failure = _failure(ended, errors)
        if not ended.timed_out and len(output) >= limits.file_mb << 20:
            failure = "wrong_output", f"wrote more than {limits.file_mb} MiB"
        failure = failure or _difference(output, wanted.encode(errors="surrogatepass"))
        if failure:
            return _reply(failure[0], cpu_s, f"case {number}: {failure[1]}")
    return _reply("passed", cpu_s)


def _failure(ended: Ended, errors: bytes) -> tuple[str, str] | None:
    """The outcome and the detail of a program that did not end well.

    The program can write what it likes to its report and its errors: they choose between ways to
    fail, and are never taken for a pass.
    """
    if ended.timed_out:
        return "timeout", ended.timed_out
    outcome, _, detail = ended.report.decode(errors="replace").partition("\n")
    if outcome in ("failed", "exception", "memory", "compile_error"):
        return outcome, detail
    if ended.status == 0:
        return None
    last_line = errors.decode(errors="replace").strip().rpartition("\n")[2]
    if b"std::bad_alloc" in errors:
        return "memory", last_line
    if ended.status == -signal.SIGABRT and b"Assertion " in errors:
        return "failed", last_line
    return "exception", f"{ended.cause} {last_line}"


def _difference(output: bytes, wanted: bytes) -> tuple[str, str] | None:
    """Compare outputs line by line, blank lines and the amount of white space within one aside."""
    lines, wanted_lines = (
        [line.split() for line in text.split(b"\n") if line.strip()] for text in (output, wanted)
    )
    if lines == wanted_lines:
        return None
    shortest = min(len(lines), len(wanted_lines))
    at = next((i for i in range(shortest) if lines[i] != wanted_lines[i]), shortest)
    got, want = (
        b" ".join(text[at]).decode(errors="replace") if at < len(text) else "nothing"
        for text in (lines, wanted_lines)
    )
    return "wrong_output", f"line {at + 1} is {got:.100}, not {want:.100}"


@functools.lru_cache(maxsize=2)  # the completions of one problem come in a row
def _parse(source: str, name: str) -> CodeType:
    try:
        return compile(source, name, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        raise TestsError(f"{name} of the problem does not parse: {error}") from error


def _reply(outcome: str, time_s: float, detail: str = "") -> _Reply:
    return {"outcome": outcome, "time_s": time_s, "detail": detail[: python.DETAIL_CHARACTERS]}


def _warm_up() -> None:
    for name in _WARM.split():
        importlib.import_module(name)
    # A program has no business with these; the functions here keep what they use of them.
    for name in list(sys.modules):
        if name.partition(".")[0] == "selfreg":
            del sys.modules[name]
    # A collection in a child would touch, and so copy, every page that it shares with its parent.
    gc.disable()
    gc.freeze()
