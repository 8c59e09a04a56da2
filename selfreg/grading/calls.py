"""Tests of a C++ function: they run in one process, the program in another, the judge between them.

The tests ask for calls, the program answers with bytes, which the tests read as values of the
declared types. So whatever the program does, it supplies values; that they are right is found out
where the program is not.
"""

import os

from selfreg.grading.child import Child, ChildOver, Ended, contents
from selfreg.grading.cpp import Toolchain
from selfreg.grading.sandbox import Limits

_NUMBER_BYTES = 8
_CALL, _PASSED = b"c", b"p"
_ENDS = {b"f": "failed", b"x": "exception", b"m": "memory"}


class _Over(Exception):
    """The program is gone, or does not play by the rules; why, where the judge knows."""


def run_tests(
    toolchain: Toolchain, tests: bytes, program: bytes, limits: Limits
) -> tuple[str, str, Ended, bytes]:
    """Run a problem's tests on a program.

    Args:
      toolchain: Runs both.
      tests: As `Toolchain.build_tests` makes them.
      program: As `Toolchain.build_function` makes it.
      limits: The program's; the tests have as much time and memory.

    Returns:
      The outcome, empty where the program's end decides it; a detail; how the program ended, and
      the end of its standard error.
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
    """Have the program called.

    Raises:
      _Over: It does not answer.
    """
    # An answer that was written before it was asked for does not have the number.
    number = os.urandom(_NUMBER_BYTES)
    try:
        program.send(number + arguments)
        answer = program.receive()
    except ChildOver:
        raise _Over(program.spoiled) from None
    if answer[:_NUMBER_BYTES] != number:
        raise _Over("answered what it was not asked")
    return answer[_NUMBER_BYTES:]
