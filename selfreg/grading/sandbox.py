"""The sandbox: the layers that a process puts on itself before it runs hostile code.

    zygote, once  namespaces (`namespaces.py`), a user of its own, no capabilities, no new
                  privileges, rlimits
    child, each   death with the zygote, Landlock, rlimits of its job, seccomp
    judge         no capabilities, Landlock, seccomp

Every layer works alone, and a missing one is left out. `layers.py` finds out which of them hold.
"""

import ctypes
import os
import resource
import signal
import struct
import sys
from collections.abc import Iterable
from typing import NamedTuple

from selfreg.grading import seccomp
from selfreg.grading.system import call, libc

OPEN_FILES = 256
WALL_FACTOR, LOAD_FACTOR = 5.0, 3.0
# A child's stack may grow to this size: deep recursion in C++ is honest, and 8 MiB is too little
# for it. Competition programs often begin by raising this limit. They may, because the limit on
# memory still holds.
_STACK_MB = 64
# The judge's address space, which limits the memory that a program's answers take there.
_JUDGE_MB = 4096

_SIGKILL = int(signal.SIGKILL)  # using an enum would cost each child pages
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_PR_SET_KEEPCAPS, _PR_SET_CHILD_SUBREAPER = 8, 36
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION, _CAP_DAC_READ_SEARCH = 0x20080522, 1 << 2

_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_LANDLOCK_VERSION, _LANDLOCK_PATH_BENEATH = 1, 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE = 1, 1 << 1, 1 << 2, 1 << 3, 1 << 14
_MAKE_CHAR, _MAKE_SOCK, _MAKE_BLOCK, _IOCTL_DEV = 1 << 6, 1 << 9, 1 << 11, 1 << 15
_ON_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_NEVER = _EXECUTE | _MAKE_CHAR | _MAKE_SOCK | _MAKE_BLOCK | _IOCTL_DEV
_RIGHTS_BY_VERSION = {1: 13, 2: 14, 3: 15, 4: 15}  # later versions: 16
_ALL_NETWORK, _ALL_SCOPES = 3, 3  # TCP bind, connect; abstract sockets, signals to outside

_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache")
_READABLE = (*_LIBRARIES, "/usr/share/zoneinfo", "/dev/random", "/dev/urandom", "/dev/zero")
_COMPILER_READABLE = ("/usr", "/bin", *_LIBRARIES)


# Argument types are declared so that a child's calls pass whole registers and make no objects.
_set_process = libc["prctl"]
_set_process.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
_restrict = libc["syscall"]
_restrict.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_uint]
_HARD_LIMITS = {
    kind: most if (most := resource.getrlimit(kind)[1]) != resource.RLIM_INFINITY else sys.maxsize
    for kind in (
        *(resource.RLIMIT_CPU, resource.RLIMIT_AS, resource.RLIMIT_FSIZE, resource.RLIMIT_CORE),
        *(resource.RLIMIT_NOFILE, resource.RLIMIT_STACK, resource.RLIMIT_NPROC),
    )
}


class _FilterProgram(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


class Limits(NamedTuple):
    """The resource limits of a child.

    Attributes:
      cpu_s: CPU seconds of all its threads together.
      wait_s: Seconds in which it neither runs nor wants a core.
      memory_mb: Address space, in MiB.
      file_mb: The size of any file that it writes, its output included, in MiB.
    """

    cpu_s: float
    wait_s: float
    memory_mb: int
    file_mb: int = 16

    @property
    def wall_s(self) -> float:
        """Seconds for which the child may keep the judge waiting, whatever it does meanwhile.

        Time in which other processes occupy the cores that the child wants does not count, up to
        LOAD_FACTOR times this limit in total.
        """
        return self.wait_s + WALL_FACTOR * self.cpu_s


class Jail(NamedTuple):
    """The layers of a child, made once by the zygote and put on by each child.

    Attributes:
      ruleset: A Landlock ruleset's file descriptor; None if the kernel has no Landlock.
      filter: A seccomp filter; None on a machine that `seccomp` does not know.
    """

    ruleset: int | None
    filter: bytes | None


def program_jail(scratch: str, readable: Iterable[str] = (), *, may_exec: bool) -> Jail:
    """Return the jail of a program, which writes into `scratch` and may execute a binary if told.

    The program reads the interpreter's library and the paths in `readable`.
    """
    code = seccomp.build_own(os.uname().machine, may_exec=may_exec)
    return Jail(_ruleset((*_READABLE, *_interpreter(), *readable), scratch), code)


def compiler_jail(scratch: str, compiler: str | None, readable: Iterable[str]) -> Jail:
    """Return the jail of a compiler, which may start its parts and read the paths `readable`."""
    paths = {*_COMPILER_READABLE, *readable, *_compiler_prefix(compiler)}
    code = seccomp.build_own(os.uname().machine, may_exec=True, may_fork=True)
    return Jail(_ruleset(paths, scratch), code)


def drop_powers(user: int | None, *, reads_all: bool = False) -> None:
    """Permanently give up the privileges that a worker's process and its children do not need.

    Args:
      user: The user and group to become; None to stay the same user.
      reads_all: Whether the process can still read files that its new user may not, such as a
        library in root's home, until it executes another program. Landlock limits which files these
        are.

    Raises:
      OSError: The privileges could not be dropped.
    """
    if user is not None:
        _prctl(_PR_SET_KEEPCAPS, reads_all)
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    kept = _CAP_DAC_READ_SEARCH if reads_all else 0
    # Effective, permitted and inheritable sets, then their upper halves.
    powers = struct.pack("=6I", kept, kept, 0, 0, 0, 0)
    call(libc.capset(struct.pack("=Ii", _CAPABILITY_VERSION, 0), powers), "capset")
    _set_limit(resource.RLIMIT_CORE, 0, 0)
    _set_limit(resource.RLIMIT_NOFILE, OPEN_FILES, OPEN_FILES)


def confine_zygote(scratch: str, user: int | None, reads_all: bool, tasks: int) -> None:
    """Put on the zygote the limits that all its children inherit, and move to `scratch`.

    The zygote dies with the thread that started it.

    Args:
      scratch: The only folder that its children may write into.
      user: See `drop_powers`.
      reads_all: See `drop_powers`.
      tasks: The most processes and threads of its user. The kernel does not apply this to root.

    Raises:
      OSError: The limits could not be put on.
    """
    drop_powers(user, reads_all=reads_all)
    # The zygote inherits the orphans of its children, and ends them.
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    _prctl(_PR_SET_PDEATHSIG, _SIGKILL)  # after the change of user, which resets it
    _, most = resource.getrlimit(resource.RLIMIT_STACK)
    resource.setrlimit(resource.RLIMIT_STACK, (min(_STACK_MB << 20, most % (1 << 64)), most))
    _set_limit(resource.RLIMIT_NPROC, tasks, tasks)
    os.chdir(scratch)


def confine_judge(readable: Iterable[str], writable: str, host_proc: int) -> None:
    """Confine the judge, which runs the tests of a data set and reads the answers of programs.

    Args:
      readable: Paths that it may read, beside the interpreter's.
      writable: A folder that it may write into.
      host_proc: A descriptor of /proc, which is its only access to /proc.

    Raises:
      OSError: The judge could not be confined.
    """
    drop_powers(None)
    _set_limit(resource.RLIMIT_AS, _JUDGE_MB << 20, _JUDGE_MB << 20)
    ruleset = _ruleset((*_READABLE, *_interpreter(), *readable), writable, host_proc)
    _filter(seccomp.build_common(os.uname().machine, may_keep_memory_files=True))
    _put_on(Jail(ruleset, seccomp.build_own(os.uname().machine, may_send_files=True)))


def seal_zygote() -> None:
    """Install on the zygote the part of the seccomp filter that all its children share."""
    _filter(seccomp.build_common(os.uname().machine))


def confine(jail: Jail, limits: tuple[float, int, int], parent: int) -> None:
    """Put a jail permanently on the calling process, which is a child of a confined zygote.

    Args:
      jail: The layers to put on.
      limits: CPU seconds, MiB of memory, and MiB of each file. The CPU rlimit is a second or two
        higher: the judge's clock decides the verdict, and the rlimit holds if the judge dies.
      parent: The zygote's pid. The process dies with it.

    Raises:
      OSError: A layer could not be put on. Nothing hostile may run then.
    """
    # Every object touched here is a page copied, so that everything inheritable is in
    # `confine_zygote`.
    if parent != 1:  # the end of pid 1 ends all others in its namespace
        _prctl(_PR_SET_PDEATHSIG, _SIGKILL)
        if os.getppid() != parent:
            raise OSError("the zygote died before its child was set up")
    limit_s, memory_mb, file_mb = limits
    cpu_s = int(limit_s) + 2
    # The soft limit's SIGXCPU distinguishes a compiler that ran too long from one that was killed.
    _set_limit(resource.RLIMIT_CPU, cpu_s, cpu_s + 1)
    _set_limit(resource.RLIMIT_AS, memory_mb << 20, memory_mb << 20)
    _set_limit(resource.RLIMIT_FSIZE, file_mb << 20, file_mb << 20)
    _put_on(jail)


def _put_on(jail: Jail) -> None:
    if jail.ruleset is not None:
        call(_restrict(_LANDLOCK_RESTRICT, jail.ruleset, 0), "landlock_restrict_self")
    if jail.filter is not None:
        _filter(seccomp.for_process(jail.filter))


def _filter(code: bytes | None) -> None:
    if code is not None:
        program = _FilterProgram(len(code) // 8, code)
        _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(program))


def visible(compiler: str | None) -> tuple[str, ...]:
    """Return the host paths that a worker's processes need: the system, Python and the compiler."""
    prefixes = (sys.base_prefix, sys.base_exec_prefix, *_compiler_prefix(compiler))
    return (*_COMPILER_READABLE, *prefixes, *_READABLE)


def _compiler_prefix(compiler: str | None) -> tuple[str, ...]:
    if compiler is None:
        return ()
    prefix = os.path.dirname(os.path.dirname(os.path.realpath(compiler)))
    return () if prefix == "/" else (prefix,)


def _interpreter() -> tuple[str, ...]:
    return tuple(os.path.join(p, "lib") for p in {sys.base_prefix, sys.base_exec_prefix})


def _ruleset(readable: Iterable[str], scratch: str, host_proc: int | None = None) -> int | None:
    """Make a Landlock ruleset that allows only these paths, /dev/null and the scratch folder."""
    version = libc.syscall(_LANDLOCK_CREATE, None, 0, _LANDLOCK_VERSION)
    if version < 1:
        return None
    handled = (1 << _RIGHTS_BY_VERSION.get(version, 16)) - 1
    size = 8 if version < 4 else 16 if version < 6 else 24
    attributes = struct.pack("=QQQ", handled, _ALL_NETWORK, _ALL_SCOPES)[:size]
    ruleset = libc.syscall(_LANDLOCK_CREATE, attributes, ctypes.c_size_t(size), 0)
    call(ruleset, "landlock_create_ruleset")
    rights = dict.fromkeys(readable, _READ)
    rights["/dev/null"] = _READ_FILE | _WRITE_FILE
    rights[scratch] = handled & ~_NEVER
    for path, allowed in rights.items():
        if not os.path.exists(path):
            continue
        allowed &= handled if os.path.isdir(path) else handled & _ON_FILES
        folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
        _allow(ruleset, folder, allowed)
        os.close(folder)
    if host_proc is not None:
        _allow(ruleset, host_proc, _READ_FILE | _READ_DIR)
    # A high number, out of the way of the descriptors that a child receives.
    number = next(n for n in range(OPEN_FILES // 2, OPEN_FILES) if not _is_open(n))
    os.dup2(ruleset, number, inheritable=False)
    os.close(ruleset)
    return number


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _allow(ruleset: int, folder: int, rights: int) -> None:
    rule = struct.pack("=Qi", rights, folder)
    result = libc.syscall(_LANDLOCK_ADD, ruleset, _LANDLOCK_PATH_BENEATH, rule, 0)
    call(result, "landlock_add_rule")


def _set_limit(kind: int, soft: int, hard: int) -> None:
    most = _HARD_LIMITS[kind]
    resource.setrlimit(kind, (min(soft, most), min(hard, most)))


def _prctl(option: int, value: int, pointer: int = 0) -> None:
    call(_set_process(option, value, pointer, 0, 0), f"prctl({option})")
