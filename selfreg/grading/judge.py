"""The judge: a trusted process that runs tests, while the program runs in a child of the zygote.

Tests hold proxies of the program's objects (`proxies.py`) and compare plain data. A pass is a test
that ran to its end here and called the program: no exit status, output or object is evidence for
one. The judge ends when its connection to the pool does.
"""

import builtins
import contextlib
import functools
import gc
import importlib
import os
import random
import signal
import socket
import sys
import types
from collections.abc import Callable
from types import CodeType
from typing import Any, NamedTuple

from selfreg.grading import (
    boot,
    calls,
    checkers,
    cpp,
    idle,
    layers,
    namespaces,
    outputs,
    proxies,
    reach,
    sandbox,
    sources,
    streams,
    wire,
)
from selfreg.grading.child import (
    HOST_PROC,
    Child,
    ChildOver,
    Ended,
    JailError,
    Zygote,
    contents,
    memory_file,
)
from selfreg.grading.headers import Settings
from selfreg.grading.program import DETAIL_CHARACTERS
from selfreg.grading.remote import DEEP, Peer, ProtocolError
from selfreg.grading.sandbox import Limits
from selfreg.grading.system import count_tasks, last_words, powers
from selfreg.grading.values import dump, load

_MOST_BYTES = 1 << 30
# A program that only waits (it sleeps, or is deadlocked) has its CPU limit and this to end.
_WAIT_EXTRA_S = 1.0
# What a script may write beyond the output that is wanted of it.
_OUTPUT_EXTRA_MB = 16

_TESTS_FILE = "tests.py"
_FIRST_USER = 1 << 24  # far from those that a system gives out
# Processes and threads of a worker; where its user is not its own, beside those that there are.
_TASKS, _MORE_TASKS = 256, 1024
# CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_SETGID and CAP_SETUID; CAP_DAC_READ_SEARCH.
_CHANGE_USER, _READ_ALL = 1 << 0 | 1 << 1 | 1 << 6 | 1 << 7, 1 << 2

_Reply = dict[str, Any]


class TestsError(Exception):
    """The tests are broken, whatever the program."""


class _Tests(NamedTuple):
    """Parsed tests.

    Attributes:
      setup: Runs first.
      code: The tests.
      entry_point: The function's name.
      names: Those of the program that the tests may use.
      may_stop: Whether the tests speak of StopIteration, and so may wait for one.
    """

    setup: CodeType
    code: CodeType
    entry_point: str | None
    names: list[str]
    may_stop: bool


def main(channel: int) -> None:
    """Serve the pool on the connection that is open with number `channel`."""
    sys.setrecursionlimit(DEEP)
    os.umask(0o022)  # its zygote, who may be another user, reads what it writes
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
            # None: those of the job before.
            cases = job["stdio"] = cases if job["stdio"] is None else job["stdio"]
            wire.send(connection, grade(job, zygote, toolchain))


class _Place(NamedTuple):
    """Where programs run: their scratch folder, their user (None: the judge's), see drop_powers."""

    scratch: str
    user: int | None
    reads_all: bool = False


def _isolate(config: dict[str, Any]) -> _Place:
    """Go into isolation.

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
    """Whether all users can reach what has this path."""
    path = os.path.realpath(path)
    while path != (path := os.path.dirname(path)):
        if not os.stat(path).st_mode & 0o001:
            return False
    return True


def _start_zygote(config: dict[str, Any], channel: int, place: _Place) -> Zygote:
    """Start the zygote, then give up what only its start took."""
    settings = Settings(**config["cpp"])
    facts = {
        **place._asdict(),
        "has_quota": place.scratch == namespaces.SCRATCH,
        "tasks": _TASKS if place.user is not None else _MORE_TASKS + count_tasks(HOST_PROC),
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


def grade(job: dict[str, Any], zygote: Zygote, toolchain: cpp.Toolchain) -> _Reply:
    """Grade one job of the pool: a reply with `outcome`, `time_s`, `peak_mb` and `detail`."""
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
        return _grade_functions(job, limits, zygote)
    except cpp.CompileError as error:
        return _reply("compile_error", str(error))
    except (TestsError, checkers.CheckerError) as error:
        return _reply("test_error", str(error))
    except (JailError, cpp.ToolchainError) as error:
        return _reply("infra_error", str(error))
    except ConnectionError:
        raise
    except Exception as error:  # of the judge's own code: the pool finds out whose fault it is
        return _reply("infra_error", f"the judge failed: {error!r}")


# --- Python functions -----------------------------------------------------------------------------


def _grade_functions(job: dict[str, Any], limits: Limits, zygote: Zygote) -> _Reply:
    tests = _parse(job["setup"], job["code"], job["entry_point"])
    held = streams.standing()
    names = _begin(tests)
    child = Child(zygote, limits)
    verdict: tuple[str, str] | None = None
    try:
        child.send(dump({"setup": job["setup"], "program": job["program"], "names": tests.names}))
        loaded = load(child.receive())
        if "failure" in loaded:
            verdict = _split(loaded["failure"])
        else:
            peer = Peer(child.send, child.receive, proxies.JUDGE, repr)
            peer.before_message = streams.Substitution(peer, names).tell
            peer.may_stop = tests.may_stop
            verdict = _run(tests, names, peer, loaded)
            # Tests may catch whatever a program's end raised in them.
            if verdict[0] == "passed" and not child.is_done_well():
                verdict = "exception", "ended, or went on talking, before its tests ended"
    except ChildOver:
        pass
    except ProtocolError as error:
        verdict = "exception", str(error)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, MemoryError):
        verdict = "exception", "the program sent nonsense"
    finally:
        streams.restore(held)
        names.clear()
        ended = child.end()
    if ended.timed_out:
        verdict = "timeout", ended.timed_out
    elif child.spoiled:
        verdict = "exception", child.spoiled
    return _reply(*(verdict or ("exception", f"ended before its tests did: {ended.cause}")), ended)


def _begin(tests: _Tests) -> dict[str, Any]:
    """The namespace of the tests, with their set-up done."""
    module = types.ModuleType(proxies.TESTS_MODULE)
    sys.modules[proxies.TESTS_MODULE] = module
    names = vars(module)
    names["__builtins__"] = dict(vars(builtins))
    random.seed(0)
    try:
        exec(tests.setup, names)
    except BaseException as error:
        raise TestsError(f"the set-up fails: {type(error).__name__}: {error}") from error
    return names


def _run(
    tests: _Tests, names: dict[str, Any], peer: Peer, loaded: dict[str, Any]
) -> tuple[str, str]:
    """Run tests against a loaded program: the outcome and a detail."""
    # What the set-up defines is not for the program to replace.
    wanted = {name for name in tests.names if name not in names or name == tests.entry_point}
    for name in wanted.intersection(loaded["modules"], sys.stdlib_module_names):
        # Tests that lean on an import of the program get the module, and not the program's. Not
        # every name of a module is one here, and a program can give it to anything.
        with contextlib.suppress(ImportError):
            names[name] = importlib.import_module(name)
    given = loaded["names"].items()
    adopted = {name: peer.adopt(value) for name, value in given}
    names.update({name: value for name, value in adopted.items() if name in wanted})
    with idle.watched(Child.wait.__code__) as watch:
        try:
            exec(tests.code, names)
        except (ChildOver, ProtocolError):
            raise
        except BaseException as error:
            if not watch.has_ended:
                if id(error) not in peer.errors:
                    _blame_tests(error, tests)
                return _explain(error, peer)
    if watch.has_ended:
        return "timeout", "the tests wait for what the program does not do"
    if peer.broken or not peer.calls:
        return "failed", peer.broken or "the tests ended without a call of the program"
    return "passed", ""


def _blame_tests(error: BaseException, tests: _Tests) -> None:
    """Raise TestsError for what no program can be at fault for."""
    if isinstance(error, ModuleNotFoundError):
        raise TestsError(f"the tests need the module {error.name}, which is not here") from error
    misnamed = tests.entry_point not in (None, *tests.names)
    if misnamed and isinstance(error, NameError):
        raise TestsError(f"the tests want {error.name}, not {tests.entry_point}") from error


def _explain(error: BaseException, peer: Peer) -> tuple[str, str]:
    """The outcome and the detail of an exception that ended the tests."""
    if error is peer.error:
        return "memory" if isinstance(error, MemoryError) else "exception", peer.error_detail
    line = ""
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == _TESTS_FILE:
            line = f"{_TESTS_FILE}, line {trace.tb_lineno}: "
        trace = trace.tb_next
    # Not `str(error)`: an object of the program in it would have its own say.
    message = f": {error.args[0]}" if error.args and type(error.args[0]) is str else ""
    outcome = "failed" if isinstance(error, AssertionError) else "exception"
    return outcome, f"{line}{type(error).__name__}{message}"


@functools.lru_cache(maxsize=4)  # the completions of one problem come in a row
def _parse(setup: str, code: str, entry_point: str | None) -> _Tests:
    compiled = _compile(code, _TESTS_FILE)
    if reason := reach.out_of_reach(setup, code, entry_point):
        raise TestsError(reason)
    used = _names(compiled)
    own = vars(builtins).keys() - {entry_point}
    names = [name for name in dict.fromkeys(used) if name not in own]
    if not names:
        raise TestsError("the tests use nothing that a program could define")
    prepared = _compile(setup, "setup.py")
    may_stop = "StopIteration" in (*used, *_names(prepared))
    return _Tests(prepared, compiled, entry_point, names, may_stop)


def _names(code: CodeType) -> list[str]:
    """The names that code and the functions in it use: variables, and attributes, too."""
    inner = [name for part in code.co_consts if isinstance(part, CodeType) for name in _names(part)]
    return [*code.co_names, *inner]


def _compile(source: str, name: str) -> CodeType:
    try:
        return compile(source, name, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise TestsError(f"{name} of the problem does not parse: {error}") from error


# --- Programs with standard input and output, and compiled ones -----------------------------------


def _grade_script(
    job: dict[str, Any], limits: Limits, zygote: Zygote, toolchain: cpp.Toolchain
) -> _Reply:
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
) -> _Reply:
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
    return _reply(outcome, detail, ended)


def _grade_cases(
    job: dict[str, Any],
    run: Callable[[dict[str, int]], tuple[Ended, bytes, bytes]],
    limits: Limits,
    zygote: Zygote,
    toolchain: cpp.Toolchain,
) -> _Reply:
    """Run a program on its cases until one fails; each case has the whole time limit."""
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
            return _reply(failure[0], f"case {number}: {failure[1]}", None, cpu_s, peak_mb)
    return _reply("passed", "", None, cpu_s, peak_mb)


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


def _failure(ended: Ended, report: bytes, errors: bytes) -> tuple[str, str] | None:
    """The outcome and the detail of a program that did not end well.

    The program can write what it likes to its report and its errors: they choose between ways to
    fail, and are never taken for a pass.
    """
    if ended.timed_out:
        return "timeout", ended.timed_out
    outcome, detail = _split(report.decode(errors="replace"))
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


def _split(report: str) -> tuple[str, str]:
    """The outcome and the detail of a report, which says only how a program failed."""
    outcome, _, detail = report.partition("\n")
    known = outcome in ("failed", "exception", "memory", "compile_error")
    return (outcome, detail) if known else ("exception", "")


def _reply(
    outcome: str,
    detail: str = "",
    ended: Ended | None = None,
    cpu_s: float = 0.0,
    peak_mb: float = 0.0,
) -> _Reply:
    if ended is not None:
        cpu_s, peak_mb = ended.cpu_s, ended.peak_mb
    cut = detail[:DETAIL_CHARACTERS]
    return {"outcome": outcome, "time_s": cpu_s, "peak_mb": peak_mb, "detail": cut}
