"""Run tests of Python functions in the judge, on proxies of a program's objects.

A program passes if its tests ran to their end here and called it.
"""

import builtins
import contextlib
import functools
import importlib
import random
import sys
import types
from types import CodeType
from typing import Any, NamedTuple

from selfreg.grading import idle, proxies, reach, streams
from selfreg.grading.child import Child, ChildOver, Zygote
from selfreg.grading.remote import Peer, ProtocolError
from selfreg.grading.replies import Reply, make_reply, split_report
from selfreg.grading.sandbox import Limits
from selfreg.grading.values import dump, load

_TESTS_FILE = "tests.py"


class TestsError(Exception):
    """The tests are broken, whatever the program."""


class _Tests(NamedTuple):
    """Parsed tests.

    Attributes:
      setup: The compiled set-up, which runs first.
      code: The compiled tests.
      entry_point: The function's name.
      names: The program's names that the tests may use.
      may_stop: Whether the tests or their set-up mention StopIteration, and so may wait for one.
    """

    setup: CodeType
    code: CodeType
    entry_point: str | None
    names: list[str]
    may_stop: bool


def grade_functions(job: dict[str, Any], limits: Limits, zygote: Zygote) -> Reply:
    """Grade a program whose functions the tests call.

    Raises:
      TestsError: The tests are broken.
      JailError: There is no verdict.
    """
    tests = _parse(job["setup"], job["code"], job["entry_point"])
    held = streams.standing()
    names = _begin(tests)
    child = Child(zygote, limits)
    verdict: tuple[str, str] | None = None
    try:
        child.send(dump({"setup": job["setup"], "program": job["program"], "names": tests.names}))
        loaded = load(child.receive())
        if "failure" in loaded:
            verdict = split_report(loaded["failure"])
        else:
            peer = Peer(child.send, child.receive, proxies.JUDGE, repr)
            peer.before_message = streams.Substitution(peer, names).tell
            peer.may_stop = tests.may_stop
            verdict = _run(tests, names, peer, loaded)
            # The tests may have caught the exception that the program's end raised in them.
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
    return make_reply(
        *(verdict or ("exception", f"ended before its tests did: {ended.cause}")), ended
    )


def _begin(tests: _Tests) -> dict[str, Any]:
    """Return the namespace of the tests, after running their set-up."""
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
    """Run tests against a loaded program, and return the outcome and a detail."""
    # The program must not replace what the set-up defines.
    wanted = {name for name in tests.names if name not in names or name == tests.entry_point}
    for name in wanted.intersection(loaded["modules"], sys.stdlib_module_names):
        # Tests that rely on an import of the program get the real module, not the program's. Not
        # every name of a module exists here, and a program can give that name to any object.
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
    """Raise TestsError for an error that cannot be the program's fault."""
    if isinstance(error, ModuleNotFoundError):
        raise TestsError(f"the tests need the module {error.name}, which is not here") from error
    misnamed = tests.entry_point not in (None, *tests.names)
    if misnamed and isinstance(error, NameError):
        raise TestsError(f"the tests want {error.name}, not {tests.entry_point}") from error


def _explain(error: BaseException, peer: Peer) -> tuple[str, str]:
    """Return the outcome and the detail for an exception that ended the tests."""
    if error is peer.error:
        return "memory" if isinstance(error, MemoryError) else "exception", peer.error_detail
    line = ""
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == _TESTS_FILE:
            line = f"{_TESTS_FILE}, line {trace.tb_lineno}: "
        trace = trace.tb_next
    # Not `str(error)`, which would let an object of the program in it choose the text.
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
    """Return the names that code and its inner functions use: variables and attributes."""
    inner = [name for part in code.co_consts if isinstance(part, CodeType) for name in _names(part)]
    return [*code.co_names, *inner]


def _compile(source: str, name: str) -> CodeType:
    try:
        return compile(source, name, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise TestsError(f"{name} of the problem does not parse: {error}") from error
