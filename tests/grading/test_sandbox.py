"""Test what a program cannot reach, with one act per test. The act fails, and not the program."""

import os
import socket
import threading
import time
from pathlib import Path

import pytest

from selfreg.run.records import Language, Outcome

# A program of this form passes if, and only if, the act fails with an OSError.
DENIED = """\
import ctypes, os, socket, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
def check(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), 'denied')
def add(a, b):
    try:
        {act}
    except OSError:
        return a + b
"""
ACTS = {
    "socket": "socket.socket()",
    "datagram socket": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
    "unix socket": "socket.socket(socket.AF_UNIX)",
    "name look-up": "socket.getaddrinfo('example.invalid', 80)",
    "read a password file": "open('/etc/shadow').read()",
    "read a home": "os.listdir('/root')",
    "read the root": "os.listdir('/')",
    "read /tmp": "os.listdir('/tmp')",
    "read its own memory map": "open('/proc/self/maps').read()",
    "read the worker's memory": "open(f'/proc/{os.getppid()}/mem', 'rb')",
    "read the worker's environment": "open(f'/proc/{os.getppid()}/environ', 'rb')",
    "write into /tmp": "open('/tmp/selfreg_was_here', 'w')",
    "write into the library": "open(os.__file__ + 'x', 'w')",
    "change the library": "open(os.__file__, 'a')",
    "truncate a library file": "os.truncate(os.__file__, 0)",
    "chmod a library file": "os.chmod(os.__file__, 0o600)",
    "touch a library file": "os.utime(os.__file__)",
    "chown a library file": "os.chown(os.__file__, 1, 1)",
    "set an attribute of a library file": "os.setxattr(os.__file__, 'user.x', b'x')",
    "delete a library file": "os.unlink(os.__file__)",
    "link a library file": "os.link(os.__file__, 'os.py')",
    "make a device": "os.mknod('null', 0o600 | 0o020000, os.makedev(1, 3))",
    "make a set-user-id file": "os.close(os.open('s', os.O_CREAT)) or os.chmod('s', 0o4777)",
    "write to another name of scratch": "open('../escaped', 'w')",
    "fork": "os.fork()",
    "start a program": "subprocess.run(['/bin/true'])",
    "exec": "os.execv('/bin/true', ['true'])",
    "exec itself": "os.execv(sys.executable, [sys.executable, '-c', ''])",
    "signal everybody": "os.kill(-1, 9)",
    "signal its group": "os.killpg(0, 9)",
    "signal the worker": "os.kill(os.getppid(), 0)",
    "kill itself": "os.kill(os.getpid(), 9)",
    "signal through a file's owner": "import fcntl; fcntl.fcntl(0, fcntl.F_SETOWN, os.getppid())",
    "limit the worker": "import resource; resource.prlimit(os.getppid(), 0, (1, 1))",
    "slow the worker": "os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)",
    "pin the worker": "os.sched_setaffinity(os.getppid(), {0})",
    "outlive the worker": "check(libc.prctl(1, 0, 0, 0, 0))",
    "trace the worker": "check(libc.ptrace(16, os.getppid(), 0, 0))",
    "read the worker's memory by call": "check(libc.process_vm_readv(os.getppid(), 0, 0, 0, 0, 0))",
    "new user namespace": "check(libc.unshare(0x10000000))",
    "new network namespace": "check(libc.unshare(0x40000000))",
    "mount": "check(libc.mount(b'none', b'.', b'tmpfs', 0, None))",
    "chroot": "os.chroot('.')",
    "become another user": "os.setuid(1)",
    "shared memory": "check(libc.shmget(0x1234, 4096, 0o1666))",
    "message queue": "check(libc.msgget(0x1234, 0o1666))",
    "memory file": "os.memfd_create('x')",
    "io_uring": "check(libc.syscall(425, 1, 0))",
    "bpf": "check(libc.syscall(321 if os.uname().machine == 'x86_64' else 280, 0, 0, 0))",
    "datagrams to a path": "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)",
    "another end for a stream": "socket.socketpair()[0].connect('x')",
    "a name for a stream": "socket.socketpair()[0].bind('x')",
    "send a file": "socket.socketpair()[0].sendmsg([b'x'])",
    "a timer that kills": "check(libc.timer_create(0, 0, ctypes.create_string_buffer(8)))",
    "a filter of its own": "check(libc.prctl(22, 2, 0, 0, 0))",
    "a lease on a library file": "import fcntl; fcntl.fcntl(os.open(os.__file__, 0), 1024, 0)",
    "room that costs no time": "os.posix_fallocate(os.open('x', os.O_CREAT | os.O_RDWR), 0, 1)",
    "write out the host's disk": "check(libc.syncfs(os.open(os.__file__, 0)))",
    "limit its own CPU": "import resource\n"
    "        try: resource.setrlimit(resource.RLIMIT_CPU, (0, 0))\n"
    "        except ValueError as error: raise OSError from error",
    "a call of the future": "check(libc.syscall(500))",
    "raise its memory limit": "import resource\n"
    "        try: resource.setrlimit(resource.RLIMIT_AS, (-1, -1))\n"
    "        except ValueError as error: raise OSError from error",
}


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS.keys())
def test_denied(grade, act):
    grade = grade(DENIED.format(act=act))
    assert grade.outcome is Outcome.PASSED, grade
    assert not os.path.exists("/tmp/selfreg_was_here")


def test_every_layer_is_probed(pool):
    # On any machine, one of the first two closes the network, and the last two must hold.
    assert {"seccomp", "netns"} & set(pool.layers)
    assert {"rlimits", "capabilities"} <= set(pool.layers)


def test_no_packet_reaches_a_listener(grade):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.3)
        port = server.getsockname()[1]
        program = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 1)\n"
        assert grade(program).outcome is Outcome.EXCEPTION
        with pytest.raises(TimeoutError):
            server.accept()


def test_the_environment_is_empty(grade, monkeypatch):
    monkeypatch.setenv("SELFREG_SECRET", "x")
    program = "import os\ndef add(a, b):\n    return a + b if not os.environ else None\n"
    assert grade(program).outcome is Outcome.PASSED


def test_the_scratch_folder_is_empty_again(pool, make_problem):
    # The folders are deeply nested, and the last one is not accessible. More programs make them
    # than one worker runs. All of the folders must be gone afterwards.
    leave = (
        "import os\n"
        "for i in range(1200):\n"
        "    os.mkdir('d', 0o700 if i < 1199 else 0)\n"
        "    if i < 1199: os.chdir('d')\n"
    )
    look = "import os\nassert os.listdir('.') == []\n"
    add = "def add(a, b):\n    return a + b\n"
    jobs = [(make_problem(), f"{leave}{add}# {i}") for i in range(4)]
    jobs += [(make_problem(), f"{look}{add}# {i}") for i in range(8)]
    assert {grade.outcome for grade in pool.grade(jobs)} == {Outcome.PASSED}


def test_one_program_leaves_nothing_in_the_next(pool, make_problem):
    leave = "import builtins, sys\nbuiltins.leak = sys.modules['leak'] = 1\n"
    look = (
        "import builtins, sys\nassert not hasattr(builtins, 'leak') and 'leak' not in sys.modules\n"
    )
    add = "def add(a, b):\n    return a + b\n"
    jobs = [(make_problem(), f"{(leave, look)[i % 2]}{add}# {i}") for i in range(16)]
    assert {grade.outcome for grade in pool.grade(jobs)} == {Outcome.PASSED}


def test_the_graders_modules_are_out_of_sight(grade):
    program = "import sys\nassert not [m for m in sys.modules if 'selfreg' in m]\n"
    assert grade(f"{program}def add(a, b):\n    return a + b\n").outcome is Outcome.PASSED


CPP_DENIED = """\
#include <arpa/inet.h>
#include <csignal>
#include <fcntl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <unistd.h>
int add(int a, int b) {{ return {act} < 0 ? a + b : 0; }}
"""
CPP_ACTS = (
    "socket(AF_INET, SOCK_STREAM, 0)",
    'open("/etc/shadow", O_RDONLY)',
    'open("/tmp/selfreg_was_here", O_CREAT | O_WRONLY, 0600)',
    'execl("/bin/true", "true", nullptr)',
    "fork()",
    "kill(-1, SIGKILL)",
    "kill(getppid(), SIGSTOP)",
    "ptrace(PTRACE_ATTACH, getppid(), 0, 0)",
)


@pytest.mark.parametrize("act", CPP_ACTS)
def test_denied_to_cpp(grade, act):
    assert grade(CPP_DENIED.format(act=act), Language.CPP).outcome is Outcome.PASSED


@pytest.mark.parametrize("path", ["/etc/passwd", "/proc/self/environ"])
def test_the_compiler_reads_no_host_file(grade, path):
    line = Path("/etc/passwd").read_text().partition("\n")[0]
    for program in (f'#include "{path}"\n', f'asm(".incbin \\"{path}\\"");\n'):
        verdict = grade(program + "int add(int a, int b) { return a + b; }", Language.CPP)
        assert verdict.outcome is Outcome.COMPILE_ERROR
        assert line not in verdict.detail


def test_no_foreign_way_to_call_the_kernel(grade):
    # The x32 calls of x86_64 have other numbers. A process that makes one dies at once.
    if os.uname().machine != "x86_64":
        pytest.skip("x32 is an ABI of x86_64")
    program = "import ctypes\nctypes.CDLL(None).syscall(0x40000000 + 41, 2, 1, 0)\n"
    grade = grade(program)
    assert grade.outcome is Outcome.EXCEPTION
    assert "SIGSYS" in grade.detail


def test_a_process_of_the_same_user_survives(grade):
    alive = threading.Event()
    thread = threading.Thread(target=lambda: (time.sleep(0.2), alive.set()))
    thread.start()
    for target in ("-1", "0", "os.getppid()", "-os.getppid()"):
        grade(f"import os\nos.kill({target}, 9)\n")
    thread.join()
    assert alive.is_set()
