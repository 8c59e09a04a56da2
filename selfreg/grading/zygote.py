"""The zygote: a fresh, warm interpreter that forks one jailed child a program, and nothing else.

It is never forked from the trainer, which may hold gigabytes, and never from the judge, which holds
the tests: its memory, and so every child's, has nothing in it that a program must not see. It reads
no program either; a child reads its own. It ends when the judge does.

    judge -> zygote     a job, with file descriptors: fork; another may follow before the end of one
                        SEAL: put on the part of the filter that all children share
                        PID and a place: send a pidfd of the child started at that place
                        SPACE: say how many MiB its files take
                        REAP, END: wait for the last (a while, or not at all), end what is left
    judge -> zygote     at the start: JSON, and a descriptor of /proc where it is to count threads
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

# In a child; the zygote's own is out of the way of what arrives for the next.
CHANNEL_FD, KEPT_FD = 3, 4
CONTROL_FD, PROC_FD = sandbox.OPEN_FILES - 1, sandbox.OPEN_FILES - 3
PID, SPACE, REAP, END, SEAL = b"P", b"M", b"R", b"E", b"S"
MESSAGE_BYTES = 1 << 16
_RIGHTS = _socket.CMSG_SPACE(5 * struct.calcsize("i"))
CONFINED = b"+"
# Between the end of a process's connections and its own lie moments, but it may not get a core.
_GRACE_S = 2.0
# How often the threads of a child are counted that no limit of the kernel holds: some hundreds can
# start meanwhile.
_COUNT_S = 0.02

# The C library's, with the interpreter's lock held: os.fork would have the child tidy up after
# threads that the zygote does not have, and that costs more than the fork.
_fork = ctypes.PyDLL(None).fork

# What programs import most: from here every child has it for nothing. What comes with a library of
# its own (decimal, hashlib) or with much memory (inspect) would cost all the others more.
_WARM = """
bisect collections.abc copy enum functools heapq itertools math operator random re string typing
"""
# `socket` itself is `_socket` and a thousand constants: every child would carry them.
_BARE = Jail(None, None)
_leave = os._exit


def main(control: int) -> None:
    """Serve the judge on the connection that is open with number `control`."""
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
    """Fork the child of a job, and do what the judge wants of it until it is reaped.

    Args:
      connection: To the judge.
      header: The job.
      files: Its descriptors.
      jails: What a child can put on, by name.
      scratch: The folder that children write into.
      parent: The zygote's pid.
      beside: Children that were started before, and have not been reaped.
      most_threads: The most threads of a child, where the zygote is to count them; else 0.

    Returns:
      Whether the judge is there.
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
        # Written by hand: the encoder's objects are pages that a child would have to copy.
        ended = os.waitstatus_to_exitcode(status)
        killed |= has_too_many
        reply = f"[{ended},{cpu_s},{peak_mb},{'true' if killed else 'false'}]".encode()
        _send_files(connection, reply, result)
    for file in result:
        os.close(file)
    return bool(command)


def _watch(connection: _socket.socket, pid: int, most_threads: int) -> bool:
    """Wait for the judge to say something, and end a child that has too many threads: whether."""
    process = os.pidfd_open(pid)
    try:
        # The number by which the host knows it, not its own namespace.
        with open(f"self/fdinfo/{process}", opener=_open_in_proc) as file:
            number = next(line.split()[1] for line in file if line.startswith("Pid:"))
        while not select.select([connection], [], [], _COUNT_S)[0]:
            if os.stat(f"{number}/task", dir_fd=PROC_FD).st_nlink - 2 > most_threads:
                os.kill(pid, signal.SIGKILL)
                return True
    except (FileNotFoundError, ProcessLookupError, StopIteration):
        pass  # it ended
    finally:
        os.close(process)
    return False


def _open_in_proc(path: str, flags: int) -> int:
    return os.open(path, flags, dir_fd=PROC_FD)


def _receive(connection: _socket.socket) -> tuple[bytes, list[int]]:
    """A message of the judge, empty when it is gone, and the descriptors that came along."""
    message, rights, _, _ = connection.recvmsg(MESSAGE_BYTES, _RIGHTS)
    return message, [file for _, _, data in rights for file in memoryview(data).cast("i")]


def _send_files(connection: _socket.socket, message: bytes, files: list[int]) -> None:
    rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack(f"{len(files)}i", *files))]
    connection.sendmsg([message], rights if files else ())


def _open_output(path: str) -> list[int]:
    """A descriptor of the file that a child was to leave, if it left one."""
    try:
        return [os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)]
    except OSError:
        return []


def _reap(pid: int, patience_s: float, has_company: bool) -> tuple[bool, int, Any]:
    """Wait for a child, end it if need be: (killed, status, usage).

    With the last of several goes all that any of them started.
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
    """End what a dead child started, which came to the zygote."""
    if os.getpid() == 1:
        os.kill(-1, signal.SIGKILL)
        return
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        for orphan in file.read().split():
            os.kill(int(orphan), signal.SIGKILL)


def _enter(job: dict[str, Any], jail: Jail, parent: int) -> None:
    """Become the child of a job.

    Its descriptors have arrived as the lowest free numbers: the channel, the file to keep, and
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
        # All that the zygote can have: few enough also where there is no close_range.
        os.closerange(CHANNEL_FD + 1 + job["keeps"], sandbox.OPEN_FILES)
        # Written before anything hostile runs, and it cannot be unwritten: what comes behind it
        # is the program's own, and never taken for trouble of the grader.
        os.write(CHANNEL_FD, CONFINED)
        if job["execute"]:
            _execute(*job["execute"])
        program.run()
    finally:
        _leave(1)


def _execute(path: str | int, arguments: list[str], environment: dict[str, str]) -> None:
    if path == KEPT_FD:
        os.set_inheritable(KEPT_FD, False)
    # Python ignores both, and a program would inherit that: it could flood its output to the end.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    os.execve(path, arguments, environment)


def _warm_up(folder: str | None, names: list[str]) -> None:
    """Import what many programs do; what is imported here, children share.

    Args:
      folder: That of modules beside the standard library.
      names: Those.
    """
    if folder:
        os.environ.update(boot.ONE_THREAD)
        sys.path.append(folder)
    for name in (*_WARM.split(), *names):
        importlib.import_module(name)
    program.rehearse()
    # A program has no business with these; the functions here keep what they use of them.
    for name in list(sys.modules):
        if name.partition(".")[0] == "selfreg":
            del sys.modules[name]
    # A collection in a child would touch, and so copy, every page that it shares with its parent.
    gc.collect()
    gc.disable()
    gc.freeze()
