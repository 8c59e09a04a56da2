"""What a child does with a Python program: it runs here, hostile or not, and answers the judge.

Nothing of the tests is in this process but the arguments of the calls that they make, and nothing
that the program does here makes a verdict: the judge takes answers for data, and compares itself.
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

# A program may replace what these names stand for.
_read_file, _write_file, _leave = os.read, os.write, os._exit

# Scripts end with them; the site module, which an isolated interpreter leaves out, defines them.
builtins.exit = _sitebuiltins.Quitter("exit", "Ctrl-D")
builtins.quit = _sitebuiltins.Quitter("quit", "Ctrl-D")


def run() -> None:
    """Do the task that comes on CHANNEL_FD; never returns.

    A task is JSON: `program`, `setup`, which runs before it, and for one whose functions are called
    `names`, those of its global names that the tests may use.
    """
    task = values.load(_receive(CHANNEL_FD))
    if "names" in task:
        _answer(CHANNEL_FD, **task)
        _leave(1)
    _run_as_script(**task)


def rehearse() -> None:
    """Answer for harmless programs in this very process, many times.

    The interpreter rewrites code while it first runs; what it has rewritten here is shared by all
    children, where each would have to do it anew and have the memory copied for it.
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
    # One program, one verdict: chance must not decide. The hash seed is fixed, too.
    random.seed(0)


def _answer(channel: int, setup: str, program: str, names: list[str]) -> None:
    """Load a program and serve the judge until that has enough."""
    namespace = _begin("program")
    stage = "exception"
    try:
        if setup:
            exec(compile(setup, "setup.py", "exec", dont_inherit=True), namespace)
        stage = "compile_error"
        code = compile(program, PROGRAM, "exec", dont_inherit=True)
        stage = "exception"
        # Not "__main__": what a program guards stays out.
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
        # A builtin type by a name of the program's is its function: solve = list.
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
    """Run a program that reads standard input and writes standard output; never returns.

    Ends as the interpreter would: non-daemon threads are joined (competition programs run their
    main in a thread with a large stack), exit handlers run, and output is flushed. A failure is
    reported in the clear.
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
    # The interpreter's own rule: None is success, and whatever is no number is an error.
    _leave(status & 255 if isinstance(status, int) else int(status is not None))


def _begin(name: str) -> dict[str, Any]:
    """Make the interpreter look fresh: the namespace of a new main module."""
    # Dataclasses, pickle and typing look a class's module up by its name.
    module = types.ModuleType(name)
    sys.modules[name] = sys.modules["__main__"] = module
    sys.argv[:] = [PROGRAM]
    gc.enable()
    return module.__dict__


def _failure(stage: str, error: BaseException) -> str:
    """An outcome, a line break and a detail."""
    memory = stage == "exception" and issubclass(type(error), MemoryError)
    return f"{'memory' if memory else stage}\n{_describe(error)}"


def _describe(error: BaseException) -> str:
    """An error's line and its message; its own code may run meanwhile."""
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
