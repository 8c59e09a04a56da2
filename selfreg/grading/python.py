"""What a child does with a Python program: it runs here, hostile or not, and reports.

A pass is a random token, written to the report pipe behind the tests' last line: no exit, print or
exception writes it. The limit of this design is that tests and program share a process. A program
that searches its frames or its memory can find the token and the tests, and the objects it returns
decide their own comparisons.
"""

import _sitebuiltins
import atexit
import builtins
import gc
import os
import random
import sys
import threading
import traceback
import types
from collections.abc import Callable
from types import CodeType

from selfreg.grading.child import CHANNEL_FD

PROGRAM, TESTS = "program.py", "tests.py"
DETAIL_CHARACTERS = 300

# Scripts end with them; the site module, which an isolated interpreter leaves out, defines them.
builtins.exit = _sitebuiltins.Quitter("exit", "Ctrl-D")
builtins.quit = _sitebuiltins.Quitter("quit", "Ctrl-D")

# Their own copy: `builtins.len = lambda _: 3` in a program must not change what tests mean.
_TESTS_BUILTINS = dict(vars(builtins))


def pass_tests(
    setup: CodeType, program: str, tests: CodeType, passed: Callable[[], object]
) -> None:
    """Run setup, program and tests in one namespace, and report; never returns.

    Args:
      setup: Runs first.
      program: Source of the program. Its `__name__` is not "__main__": what it guards stays out.
      tests: Run last.
      passed: Reports a pass. Any other report is a line with the outcome, then the detail.
    """
    # Bound now: the program may replace what these names stand for.
    execute, leave, settrace, setprofile = exec, os._exit, sys.settrace, sys.setprofile
    names = _begin("program")
    stage = "exception"
    try:
        execute(setup, names)
        stage = "compile_error"
        code = compile(program, PROGRAM, "exec", dont_inherit=True)
        stage = "exception"
        execute(code, names)
        settrace(None)
        setprofile(None)
        names["__builtins__"] = _TESTS_BUILTINS
        stage = "failed"
        execute(tests, names)
    except BaseException as error:
        _report(stage, error)
        leave(1)
    passed()
    leave(0)


def run_as_script(program: str) -> None:
    """Run a program that reads standard input and writes standard output; never returns.

    Ends as the interpreter would: non-daemon threads are joined (competition programs run their
    main in a thread with a large stack), exit handlers run, and output is flushed.
    """
    leave = os._exit
    names = _begin("__main__")
    status: object = 0
    stage = "compile_error"
    try:
        code = compile(program, PROGRAM, "exec", dont_inherit=True)
        stage = "exception"
        try:
            exec(code, names)
        except SystemExit as error:
            status = error.code
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.__stdout__):
            if stream is not None and not stream.closed:
                stream.flush()
    except BaseException as error:
        _report(stage, error)
        leave(1)
    # The interpreter's own rule: None is success, and whatever is no number is an error.
    leave(status & 255 if isinstance(status, int) else int(status is not None))


def _begin(name: str) -> dict[str, object]:
    """Make the interpreter look fresh: the namespace of a new main module."""
    # Dataclasses, pickle and typing look a class's module up by its name.
    module = types.ModuleType(name)
    sys.modules[name] = sys.modules["__main__"] = module
    sys.argv[:] = [PROGRAM]
    # One program, one verdict: chance must not decide. The worker's hash seed is fixed, too.
    random.seed(0)
    gc.enable()
    return module.__dict__


def _report(stage: str, error: BaseException) -> None:
    """Write an outcome and the error's last line; the error's own code may run meanwhile."""
    kind = type(error)
    outcome = stage
    if stage != "compile_error" and issubclass(kind, MemoryError):
        outcome = "memory"
    elif stage == "failed" and not issubclass(kind, AssertionError):
        outcome = "exception"
    line = next(
        (
            f"{frame.f_code.co_filename}, line {number}: "
            for frame, number in reversed(list(traceback.walk_tb(error.__traceback__)))
            if frame.f_code.co_filename in (PROGRAM, TESTS)
        ),
        "",
    )
    message = traceback.format_exception_only(error)[-1].strip()
    detail = f"{line}{message}"[:DETAIL_CHARACTERS]
    os.write(CHANNEL_FD, f"{outcome}\n{detail}".encode(errors="replace"))
