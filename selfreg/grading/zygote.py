"""The zygote: a fresh, warm interpreter that only forks one jailed child for each program.

The zygote is never forked from the trainer, which may hold gigabytes, nor from the judge, which
holds the tests. Its memory, and so that of every child, contains nothing that a program must not
see. It never parses a program: each child receives its own. It ends when the judge does.

    judge -> zygote     a job with file descriptors: fork; another may follow before the first ends
                        SEAL: install the part of the filter that all children share
                        PID and a place: send a pidfd of the child started at that place
                        SPACE: report the MiB that the children's files take
                        REAP, END: wait for the last child briefly (END: not at all), then kill it
    judge -> zygote     at the start: JSON, and a descriptor of /proc if it must count threads
    zygote -> judge     JSON: [status, CPU seconds, peak MiB, whether it had to be killed]
"""

import _socket
import ctypes
import gc
import importlib
import json
import marshal
import os
import select
import signal
import struct
import sys
from typing import Any

from selfreg.grading import boot, program, sandbox
from selfreg.grading.sandbox import Jail
from selfreg.grading.system import empty_folder, folder_mb, last_words

# Descriptors in a child. The zygote's own are out of the way of those that arrive for the next
# child.
CHANNEL_FD, KEPT_FD = 3, 4
CONTROL_FD, PROC_FD = sandbox.OPEN_FILES - 1, sandbox.OPEN_FILES - 3
PID, SPACE, REAP, END, SEAL = b"P", b"M", b"R", b"E", b"S"
MESSAGE_BYTES = 1 << 16
_RIGHTS = _socket.CMSG_SPACE(5 * struct.calcsize("i"))
CONFINED = b"+"
# A process ends moments after its connections close, but may have to wait for a core.
_GRACE_S = 2.0
# How often the zygote counts a child's threads if no kernel limit holds. Some hundreds can start
# between two counts.
_COUNT_S = 0.02

# The C library's fork, called with the interpreter's lock held. After os.fork the child would clean
# up after threads that the zygote does not have, which costs more than the fork.
_fork = ctypes.PyDLL(None).fork

# The modules that programs import most, which every child then gets for free. Modules with a shared
# library of their own (decimal, hashlib) or with much memory (inspect) would cost all other
# children more.
_WARM = """
bisect collections.abc copy enum functools heapq itertools math operator random re string typing
"""
# The module `socket` is `_socket` plus a thousand constants, which every child would carry.
_BARE = Jail(None, None)
_leave = os._exit


def main(control: int) -> None:
    """Serve the judge on the open connection with the descriptor `control`."""
    os.dup2(control, CONTROL_FD)
    os.closerange(CHANNEL_FD, CONTROL_FD)
    with last_words(CONTROL_FD - 1):
        _serve()


def _serve() -> None:
    os.environ.clear()
    connection = _socket.socket(fileno=CONTROL_FD)
    message, files = _receive(connection)
    config = json.loads(message)
    for file in files:
        os.dup2(file, PROC_FD, inheritable=False)
        os.close(file)
    most_threads = config["threads"]
    scratch = config["scratch"]
    sandbox.confine_zygote(scratch, config["user"], config["reads_all"], config["tasks"])
    modules = config["modules"]
    readable = (modules["folder"],) if modules["folder"] else ()
    jails = {
        "program": sandbox.program_jail(scratch, readable, may_exec=False),
        "binary": sandbox.program_jail(scratch, may_exec=True),
        "compiler": sandbox.compiler_jail(scratch, config["compiler"], config["readable"]),
    }
    _warm_up(modules["folder"], modules["names"])
    parent = os.getpid()
    connection.send(b"ready")
    while True:
        header, files = _receive(connection)
        if not header:
            return
        if header == SEAL:
            sandbox.seal_zygote()
            continue
        if not _run(connection, header, files, jails, scratch, parent, (), most_threads):
            return


def _run(
    connection: _socket.socket,
    header: bytes,
    files: list[int],
    jails: dict[str, Jail],
    scratch: str,
    parent: int,
    beside: tuple[int, ...],
    most_threads: int,
) -> bool:
    """Fork the child of a job, and serve the judge until the child is reaped.

    Args:
      connection: The connection to the judge.
      header: The job.
      files: The job's descriptors.
      jails: The jails of children, by name.
      scratch: The folder that children write into.
      parent: The zygote's pid.
      beside: The pids of children that were started before and have not been reaped.
      most_threads: The most threads of a child, if the zygote must count them; else 0.

    Returns:
      Whether the judge is still connected.
    """
    job = marshal.loads(header)
    pid = _fork()
    if pid == 0:
        _enter(job, _BARE if job["bare"] else jails[job["jail"]], parent)
    for file in files:
        os.close(file)
    children = (*beside, pid)
    has_too_many = False
    while True:
        if most_threads:
            has_too_many |= _watch(connection, pid, most_threads)
        command, files = _receive(connection)
        if command[:1] == PID and len(command) == 2:
            process = os.pidfd_open(children[command[1]])
            _send_files(connection, PID, [process])
            os.close(process)
        elif command == SPACE:
            connection.send(str(folder_mb(scratch)).encode())
        elif command in (REAP, END, b""):
            break
        elif not _run(connection, command, files, jails, scratch, parent, children, most_threads):
            return False
    killed, status, usage = _reap(pid, _GRACE_S if command == REAP else 0.0, bool(beside))
    output = job["output"]
    result = _open_output(output) if output and status == 0 else []
    empty_folder(scratch)
    cpu_s, peak_mb = usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024
    if command:
        # The JSON is written by hand: the encoder's objects are pages that a child would have to
        # copy.
        ended = os.waitstatus_to_exitcode(status)
        killed |= has_too_many
        reply = f"[{ended},{cpu_s},{peak_mb},{'true' if killed else 'false'}]".encode()
        _send_files(connection, reply, result)
    for file in result:
        os.close(file)
    return bool(command)


def _watch(connection: _socket.socket, pid: int, most_threads: int) -> bool:
    """Wait for the judge to send something; kill a child with too many threads and return True."""
    process = os.pidfd_open(pid)
    try:
        # The pid on the host, not in the zygote's own namespace.
        with open(f"self/fdinfo/{process}", opener=_open_in_proc) as file:
            number = next(line.split()[1] for line in file if line.startswith("Pid:"))
        while not select.select([connection], [], [], _COUNT_S)[0]:
            if os.stat(f"{number}/task", dir_fd=PROC_FD).st_nlink - 2 > most_threads:
                os.kill(pid, signal.SIGKILL)
                return True
    except (FileNotFoundError, ProcessLookupError, StopIteration):
        pass  # the child ended
    finally:
        os.close(process)
    return False


def _open_in_proc(path: str, flags: int) -> int:
    return os.open(path, flags, dir_fd=PROC_FD)


def _receive(connection: _socket.socket) -> tuple[bytes, list[int]]:
    """Return a message of the judge (empty if it is gone) and the descriptors that came along."""
    message, rights, _, _ = connection.recvmsg(MESSAGE_BYTES, _RIGHTS)
    return message, [file for _, _, data in rights for file in memoryview(data).cast("i")]


def _send_files(connection: _socket.socket, message: bytes, files: list[int]) -> None:
    rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack(f"{len(files)}i", *files))]
    connection.sendmsg([message], rights if files else ())


def _open_output(path: str) -> list[int]:
    """Return a descriptor of the file that a child was to leave; empty if there is none."""
    try:
        return [os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)]
    except OSError:
        return []


def _reap(pid: int, patience_s: float, has_company: bool) -> tuple[bool, int, Any]:
    """Wait for a child, and kill it if it does not end: (killed, status, usage).

    Once no other child is left, also end every process that any of the children started.
    """
    if patience_s:
        process = os.pidfd_open(pid)
        events = select.poll()
        events.register(process, select.POLLIN)
        events.poll(1000 * patience_s)
        os.close(process)
    ended, status, usage = os.wait4(pid, os.WNOHANG)
    if not ended:
        os.kill(pid, signal.SIGKILL)
        _, status, usage = os.wait4(pid, 0)
    while not has_company:
        try:
            found, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return not ended, status, usage
        if not found:
            _kill_orphans()
            os.waitpid(-1, 0)
    return not ended, status, usage


def _kill_orphans() -> None:
    """Kill the processes that a dead child started, which the zygote inherited."""
    if os.getpid() == 1:
        os.kill(-1, signal.SIGKILL)
        return
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        for orphan in file.read().split():
            os.kill(int(orphan), signal.SIGKILL)


def _enter(job: dict[str, Any], jail: Jail, parent: int) -> None:
    """Become the child of a job.

    The job's descriptors arrived as the lowest free numbers: the channel, the file to keep, and
    standard input, output and error, as far as the job has them.
    """
    try:
        os.setsid()
        if standard := job["standard"]:
            first = CHANNEL_FD + 1 + job["keeps"]
            for file, number in enumerate(standard, first):
                os.dup2(file, number)
        try:
            sandbox.confine(jail, job["limits"], parent)
        except OSError as error:
            os.write(CHANNEL_FD, str(error).encode())
            _leave(1)
        # This is as many as the zygote can have open: few enough to close quickly without
        # close_range.
        os.closerange(CHANNEL_FD + 1 + job["keeps"], sandbox.OPEN_FILES)
        # Written before anything hostile runs, and it cannot be unwritten. Whatever follows it
        # comes from the program, and never counts as a fault of the grader.
        os.write(CHANNEL_FD, CONFINED)
        if job["execute"]:
            _execute(*job["execute"])
        program.run()
    finally:
        _leave(1)


def _execute(path: str | int, arguments: list[str], environment: dict[str, str]) -> None:
    if path == KEPT_FD:
        os.set_inheritable(KEPT_FD, False)
    # Python ignores both signals, and a program would inherit that. It could then keep writing
    # after its output is full or closed.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    os.execve(path, arguments, environment)


def _warm_up(folder: str | None, names: list[str]) -> None:
    """Import the modules that many programs use, so that children share them.

    Args:
      folder: The folder of modules beside the standard library; None if there are none.
      names: The names of those modules.
    """
    if folder:
        os.environ.update(boot.ONE_THREAD)
        sys.path.append(folder)
    for name in (*_WARM.split(), *names):
        importlib.import_module(name)
    program.rehearse()
    # Programs have no use for these modules. The functions here keep what they need of them.
    for name in list(sys.modules):
        if name.partition(".")[0] == "selfreg":
            del sys.modules[name]
    # A garbage collection in a child would touch, and so copy, every page that it shares with the
    # zygote.
    gc.collect()
    gc.disable()
    gc.freeze()
