"""Run tests of a C++ function and the program in two processes, with the judge between them.

The tests ask for calls. The program answers with bytes, which the tests read as values of the
declared types. Whatever the program does, it only supplies values, and another process decides
whether they are right.
"""

import os

from selfreg.grading.child import Child, ChildOver, Ended, contents
from selfreg.grading.cpp import Toolchain
from selfreg.grading.sandbox import Limits

_NUMBER_BYTES = 8
_CALL, _PASSED = b"c", b"p"
_ENDS = {b"f": "failed", b"x": "exception", b"m": "memory"}


class _Over(Exception):
    """The program is gone or breaks the protocol; the message is the reason if known."""


def run_tests(
    toolchain: Toolchain, tests: bytes, program: bytes, limits: Limits
) -> tuple[str, str, Ended, bytes]:
    """Run a problem's tests on a program.

    Args:
      toolchain: Runs both executables.
      tests: The executable that `Toolchain.build_tests` made.
      program: The executable that `Toolchain.build_function` made.
      limits: The program's limits, which also apply to the tests.

    Returns:
      The outcome (empty if the way in which the program ended decides it), a detail, how the
      program ended, and its standard error.
    """
    with toolchain.run(tests, limits) as asking, toolchain.run(program, limits) as answering:
        said, calls, why, is_over = b"", 0, "", False
        try:
            while (said := asking.child.receive())[:1] == _CALL:
                calls += 1
                asking.child.send(_answer(answering.child, said[1:]))
        except ChildOver:
            said = b""
        except _Over as over:
            why, is_over = str(over), True
        answered = answering.child.end()
        asked = asking.child.end()
        errors = contents(answering.stderr)
    if answered.timed_out:
        return "timeout", answered.timed_out, answered, errors
    if is_over:
        return "exception" if why else "", why, answered, errors
    outcome, detail = _ENDS.get(said[:1], ""), said[1:].decode(errors="replace")
    if said[:1] == _PASSED:
        outcome = "passed" if calls else "failed"
        detail = "" if calls else "the tests ended without a call of the program"
    elif asked.timed_out:
        outcome, detail = "timeout", f"the tests do not end on its answers: {asked.timed_out}"
    elif not outcome:
        outcome, detail = "exception", f"its answers ended the tests: {asked.cause}"
    return outcome, detail, answered, errors


def _answer(program: Child, arguments: bytes) -> bytes:
    """Send the arguments of a call to the program, and return its answer.

    Raises:
      _Over: The program does not answer.
    """
    # An answer that was written in advance does not contain this random number.
    number = os.urandom(_NUMBER_BYTES)
    try:
        program.send(number + arguments)
        answer = program.receive()
    except ChildOver:
        raise _Over(program.spoiled) from None
    if answer[:_NUMBER_BYTES] != number:
        raise _Over("answered what it was not asked")
    return answer[_NUMBER_BYTES:]
