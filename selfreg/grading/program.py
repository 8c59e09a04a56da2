"""Run a Python program, hostile or not, in a child, and answer the judge's requests.

Of the tests, this process holds only the arguments of their calls. Nothing that the program does
here decides the verdict: the judge takes answers as data, and makes the comparisons itself.
"""

import _sitebuiltins
import _socket
import atexit
import builtins
import contextlib
import gc
import os
import random
import struct
import sys
import traceback
import types
from functools import partial
from typing import Any

from selfreg.grading import shims, values
from selfreg.grading.proxies import PROGRAM as SIDE
from selfreg.grading.remote import Peer
from selfreg.grading.streams import flush

CHANNEL_FD = 3
PROGRAM = "program.py"
DETAIL_CHARACTERS = 300
LENGTH = struct.Struct("!I")

# Saved because a program may replace the functions in `os`.
_read_file, _write_file, _leave = os.read, os.write, os._exit

# Scripts call these to end. The site module defines them, and an isolated interpreter omits it.
builtins.exit = _sitebuiltins.Quitter("exit", "Ctrl-D")
builtins.quit = _sitebuiltins.Quitter("quit", "Ctrl-D")


def run() -> None:
    """Carry out the task that comes on CHANNEL_FD; never return.

    A task is JSON with `program` and `setup`, which runs before the program. If tests call the
    program's functions, it also has `names`: the program's global names that the tests may use.
    """
    task = values.load(_receive(CHANNEL_FD))
    if "names" in task:
        _answer(CHANNEL_FD, **task)
        _leave(1)
    _run_as_script(**task)


def rehearse() -> None:
    """Answer for harmless programs in the zygote's own process, many times.

    The interpreter rewrites code when it first runs. Code that was rewritten here is shared by all
    children. Otherwise each child would have to repeat this and have the memory copied.
    """
    main = sys.modules["__main__"]
    for _ in range(_REHEARSALS):
        judge, child = _socket.socketpair()
        for message in _REHEARSAL:
            _send(judge.fileno(), values.dump(message))
        judge.shutdown(_socket.SHUT_WR)
        _answer(child.fileno(), **values.load(_receive(child.fileno())))
        judge.close()
        child.close()
    del sys.modules["program"]
    sys.modules["__main__"] = main
    # A program must get the same verdict every time, so that random numbers repeat. The hash seed
    # is fixed too.
    random.seed(0)


def _answer(channel: int, setup: str, program: str, names: list[str]) -> None:
    """Load a program, and serve the judge until the judge closes the channel."""
    namespace = _begin("program")
    stage = "exception"
    try:
        if setup:
            exec(compile(setup, "setup.py", "exec", dont_inherit=True), namespace)
        stage = "compile_error"
        code = compile(program, PROGRAM, "exec", dont_inherit=True)
        stage = "exception"
        # The module is not "__main__", so that code behind that guard does not run.
        exec(code, namespace)
    except BaseException as error:
        _send(channel, values.dump({"failure": _failure(stage, error)}))
        return
    send, receive = partial(_send, channel), partial(_receive, channel)
    peer = Peer(send, receive, SIDE, _describe)
    peer.before_message = flush
    found = {name: namespace[name] for name in names if name in namespace}
    modules = [name for name, value in found.items() if isinstance(value, types.ModuleType)]
    exported = {
        # A builtin type under another name, as in solve = list, counts as the program's function.
        name: peer.export_object(value)
        if isinstance(value, type)
        and values.TYPES.get(value.__name__) is value
        and value.__name__ != name
        else peer.export(value)
        for name, value in found.items()
        if name not in modules
    }
    send(values.dump({"names": exported, "modules": modules}))
    with contextlib.suppress(EOFError):
        while True:
            peer.serve()


def _run_as_script(program: str, setup: str = "") -> None:
    """Run a program that reads standard input and writes standard output; never return.

    The program ends as under the interpreter. Non-daemon threads are joined, because competition
    programs often run their main function in a thread with a large stack. Exit handlers run, and
    output is flushed. A failure is reported as plain text.
    """
    names = _begin("__main__")
    shims.put_in()
    status: object = 0
    stage = "exception"
    try:
        if setup:
            exec(compile(setup, "setup.py", "exec", dont_inherit=True), names)
        stage = "compile_error"
        code = compile(program, PROGRAM, "exec", dont_inherit=True)
        stage = "exception"
        try:
            exec(code, names)
        except SystemExit as error:
            status = error.code
        if threading := sys.modules.get("threading"):
            threading._shutdown()
        atexit._run_exitfuncs()
        shims.flush_files()
        for stream in (sys.stdout, sys.__stdout__):
            if stream is not None and not stream.closed:
                stream.flush()
    except BaseException as error:
        _write_file(CHANNEL_FD, _failure(stage, error).encode(errors="replace"))
        _leave(1)
    # As in the interpreter, None is success, and any value that is not an integer is an error.
    _leave(status & 255 if isinstance(status, int) else int(status is not None))


def _begin(name: str) -> dict[str, Any]:
    """Make the interpreter look fresh, and return the namespace of a new main module."""
    # Dataclasses, pickle and typing look a class's module up by its name.
    module = types.ModuleType(name)
    sys.modules[name] = sys.modules["__main__"] = module
    sys.argv[:] = [PROGRAM]
    gc.enable()
    return module.__dict__


def _failure(stage: str, error: BaseException) -> str:
    """Return an outcome, a line break and a detail."""
    memory = stage == "exception" and issubclass(type(error), MemoryError)
    return f"{'memory' if memory else stage}\n{_describe(error)}"


def _describe(error: BaseException) -> str:
    """Return an error's line and message. The error's own code may run meanwhile."""
    line = next(
        (
            f"{PROGRAM}, line {number}: "
            for frame, number in reversed(list(traceback.walk_tb(error.__traceback__)))
            if frame.f_code.co_filename == PROGRAM
        ),
        "",
    )
    message = traceback.format_exception_only(error)[-1].strip()
    return f"{line}{message}"[:DETAIL_CHARACTERS]


def _receive(channel: int) -> bytes:
    (length,) = LENGTH.unpack(_read(channel, LENGTH.size))
    return _read(channel, length)


def _read(channel: int, count: int) -> bytes:
    data = _read_file(channel, count)
    while len(data) < count:
        more = _read_file(channel, count - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def _send(channel: int, body: bytes) -> None:
    data = LENGTH.pack(len(body)) + body
    while data:
        data = data[_write_file(channel, data) :]


_REHEARSALS = 40
_REHEARSAL = (
    {
        "setup": "",
        "program": "def f(*x):\n    return [i for i in x][0]\ndef g():\n    raise OSError\n",
        "names": ["f", "g"],
    },
    ["call", 1, 0, [1, 2.5, "a", None, True], {}, []],
    ["call", 2, 0, [["l", 1, ["d", "a", 2]], ["t", 1, 2], ["s", 1]], {}, []],
    ["call", 3, 1, [], {}, []],
)
