"""What keeps hostile code in: the layers that a process puts on itself before it runs any.

    worker, once  own network and IPC namespaces and a capped tmpfs as scratch folder (root only),
                  no capabilities, no new privileges, rlimits
    child, each   death with the worker, Landlock, rlimits of its job, seccomp

Every layer works alone and a missing one is left out; `layers.py` finds out which of them hold.
"""

import contextlib
import ctypes
import math
import os
import resource
import signal
import struct
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass

from selfreg.grading import seccomp

SCRATCH_MB = 64
_SCRATCH_INODES = 4096
OPEN_FILES = 256
# A child's stack may grow this far: deep recursion in C++ is honest, and 8 MiB ends it early.
_STACK_MB = 64

_SIGKILL = int(signal.SIGKILL)  # an enum costs a child pages
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_PR_SET_CHILD_SUBREAPER = 36
_SECCOMP_MODE_FILTER = 2
_CLONE_NEWNS, _CLONE_NEWIPC, _CLONE_NEWNET = 0x00020000, 0x08000000, 0x40000000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REC, _MS_PRIVATE = 2, 4, 8, 0x4000, 1 << 18
_CAPABILITY_VERSION = 0x20080522

_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_LANDLOCK_VERSION, _LANDLOCK_PATH_BENEATH = 1, 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE = 1, 1 << 1, 1 << 2, 1 << 3, 1 << 14
_MAKE_CHAR, _MAKE_SOCK, _MAKE_BLOCK, _IOCTL_DEV = 1 << 6, 1 << 9, 1 << 11, 1 << 15
_ON_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_NEVER = _EXECUTE | _MAKE_CHAR | _MAKE_SOCK | _MAKE_BLOCK | _IOCTL_DEV
_RIGHTS_BY_VERSION = {1: 13, 2: 14, 3: 15, 4: 15}  # later versions: 16
_ALL_NETWORK, _ALL_SCOPES = 3, 3  # TCP bind and connect; abstract sockets and signals to outside

_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache")
_READABLE = (*_LIBRARIES, "/usr/share/zoneinfo", "/dev/random", "/dev/urandom", "/dev/zero")
_COMPILER_READABLE = ("/usr", "/bin", *_LIBRARIES)

_libc = ctypes.CDLL(None, use_errno=True)


class _FilterProgram(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


@dataclass(frozen=True, slots=True)
class Limits:
    """What a child may use.

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


@dataclass(frozen=True, slots=True)
class Jail:
    """Made once by the worker, put on by each child.

    Attributes:
      ruleset: A Landlock ruleset's file descriptor; None where the kernel has no Landlock.
      filter: A seccomp filter; None on a machine that `seccomp` does not know.
    """

    ruleset: int | None
    filter: bytes | None


def program_jail(scratch: str, *, may_exec: bool) -> Jail:
    """The jail of a program, which writes into `scratch` and may become a compiled one if told."""
    prefixes = {sys.base_prefix, sys.base_exec_prefix}
    readable = (*_READABLE, *(os.path.join(prefix, "lib") for prefix in prefixes))
    code = seccomp.build(os.uname().machine, may_exec=may_exec)
    return Jail(_ruleset(readable, scratch), code)


def compiler_jail(scratch: str, compiler: str | None, readable: Iterable[str]) -> Jail:
    """The jail of a compiler: it may start its parts, and read `readable` beside its headers."""
    paths = {*_COMPILER_READABLE, *readable}
    if compiler is not None:
        prefix = os.path.dirname(os.path.dirname(os.path.realpath(compiler)))
        paths |= {prefix} - {"/"}
    code = seccomp.build(os.uname().machine, may_exec=True, may_fork=True)
    return Jail(_ruleset(paths, scratch), code)


def confine_worker(scratch: str) -> None:
    """Put on the calling process, for good, what all its children are to inherit.

    Its working directory becomes `scratch`. As root it gets its own network, IPC and mounts, with a
    small tmpfs on `scratch`: that bounds what programs write, and is gone with the process however
    that ends.

    Raises:
      OSError: A layer that takes no root could not be put on.
    """
    for flag in (_CLONE_NEWNET, _CLONE_NEWIPC):
        with contextlib.suppress(OSError):
            _check(_libc.unshare(flag), "unshare")
    with contextlib.suppress(OSError):
        _check(_libc.unshare(_CLONE_NEWNS), "unshare")
        _mount("none", "/", "", _MS_REC | _MS_PRIVATE, "")  # or the tmpfs would show outside
        options = f"size={SCRATCH_MB}m,nr_inodes={_SCRATCH_INODES},mode=700"
        _mount("tmpfs", scratch, "tmpfs", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, options)
    os.chdir(scratch)
    # The orphans of its children come to it, to be ended.
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _check(_libc.capset(struct.pack("=Ii", _CAPABILITY_VERSION, 0), bytes(24)), "capset")
    _set_limit(resource.RLIMIT_CORE, 0)
    _set_limit(resource.RLIMIT_STACK, _STACK_MB << 20)
    _set_limit(resource.RLIMIT_NOFILE, OPEN_FILES)


def confine(jail: Jail, limits: Limits, parent: int) -> None:
    """Put a jail on the calling process, a child of a confined worker, for good.

    Args:
      jail: Its layers.
      limits: Become rlimits. That of the CPU leaves a second more than `limits`: the worker's clock
        decides the verdict, this one holds should the worker die.
      parent: The worker's pid: the process dies with it.

    Raises:
      OSError: A layer could not be put on. Nothing hostile may run then.
    """
    # Every object touched here is a page copied: what can be inherited is in `confine_worker`.
    _prctl(_PR_SET_PDEATHSIG, _SIGKILL)
    if os.getppid() != parent:
        raise OSError("the worker died before its child was set up")
    if jail.ruleset is not None:
        _check(_libc.syscall(_LANDLOCK_RESTRICT, jail.ruleset, 0), "landlock_restrict_self")
    cpu_s = math.ceil(limits.cpu_s) + 1
    # The soft limit's SIGXCPU tells a compiler that ran too long from one that was killed.
    _set_limit(resource.RLIMIT_CPU, cpu_s, cpu_s + 1)
    _set_limit(resource.RLIMIT_AS, limits.memory_mb << 20)
    _set_limit(resource.RLIMIT_FSIZE, limits.file_mb << 20)
    if jail.filter is not None:
        code = seccomp.for_process(jail.filter)
        program = _FilterProgram(len(code) // 8, code)
        _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(program))


def empty_folder(path: str) -> None:
    """Remove all that a hostile program left in a folder.

    Raises:
      OSError: Something cannot be removed.
    """
    if not os.listdir(path):
        return
    # Tools and not shutil.rmtree, which recurses: a thousand nested folders would end it.
    for command in ("chmod -R u+rwx .", "find . -mindepth 1 -delete"):
        subprocess.run(
            command.split(),
            cwd=path,
            env={"PATH": os.defpath},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
    if left := os.listdir(path):
        raise OSError(f"cannot empty {path!r}: a program left {left[:3]} there")


def _ruleset(readable: Iterable[str], scratch: str) -> int | None:
    """A Landlock ruleset that allows these paths, /dev/null and the scratch folder only."""
    version = _libc.syscall(_LANDLOCK_CREATE, None, 0, _LANDLOCK_VERSION)
    if version < 1:
        return None
    handled = (1 << _RIGHTS_BY_VERSION.get(version, 16)) - 1
    size = 8 if version < 4 else 16 if version < 6 else 24
    attributes = struct.pack("=QQQ", handled, _ALL_NETWORK, _ALL_SCOPES)[:size]
    ruleset = _libc.syscall(_LANDLOCK_CREATE, attributes, ctypes.c_size_t(size), 0)
    _check(ruleset, "landlock_create_ruleset")
    rights = dict.fromkeys(readable, _READ)
    rights["/dev/null"] = _READ_FILE | _WRITE_FILE
    rights[scratch] = handled & ~_NEVER
    for path, allowed in rights.items():
        if not os.path.exists(path):
            continue
        allowed &= handled if os.path.isdir(path) else handled & _ON_FILES
        folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rule = struct.pack("=Qi", allowed, folder)
        result = _libc.syscall(_LANDLOCK_ADD, ruleset, _LANDLOCK_PATH_BENEATH, rule, 0)
        os.close(folder)
        _check(result, f"landlock_add_rule for {path}")
    return int(ruleset)


def _set_limit(kind: int, soft: int, hard: int | None = None) -> None:
    most = resource.getrlimit(kind)[1]
    wanted = (soft, soft if hard is None else hard)
    if most != resource.RLIM_INFINITY:
        wanted = (min(wanted[0], most), min(wanted[1], most))
    resource.setrlimit(kind, wanted)


def _mount(source: str, target: str, kind: str, flags: int, options: str) -> None:
    names = (source.encode(), target.encode(), kind.encode())
    result = _libc.mount(*names, ctypes.c_ulong(flags), options.encode())
    _check(result, f"mount {target}")


def _prctl(option: int, value: int, pointer: int | None = None) -> None:
    # Whole registers: prctl rejects what a plain int may leave in the upper half of one.
    zero = ctypes.c_ulong(0)
    arguments = (ctypes.c_ulong(value), ctypes.c_void_p(pointer), zero, zero)
    _check(_libc.prctl(option, *arguments), f"prctl({option})")


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
