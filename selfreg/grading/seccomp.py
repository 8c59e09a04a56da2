"""Seccomp filters: the system calls that are denied to hostile code.

The filters are deny lists, not allow lists. The calls of an interpreter, a libc or a compiler
differ from system to system, and the other layers still limit a call that the list misses. A denied
call fails with an error, so that an honest program sees an OSError and does not die.
"""

import errno
import os
import struct

# The values of linux/audit.h and linux/seccomp.h.
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_LOAD, _JUMP, _RETURN = 0x20, 0x05, 0x06
_IF_EQUAL, _IF_AT_LEAST, _IF_ANY_BIT = 0x15, 0x35, 0x45
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data

# A placeholder for the process's pid in its filter, which is known only after the fork.
_PID = 0x5E1F9E6D

_X32 = 0x40000000  # the x32 ABI: a second number for every call of x86_64
_NEWEST = 462  # mseal, Linux 6.10. Later calls fail with ENOSYS.

# name: (x86_64, aarch64), None where the architecture lacks the call.
_DENIED: dict[str, tuple[int | None, int | None]] = {
    # Network. A socketpair of streams stays allowed: asyncio wakes itself through one.
    "socket": (41, 198),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
    # Other processes. Even without CAP_KILL, root can signal everything that root started.
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "kcmp": (312, 272),
    # A timer can send SIGKILL.
    "timer_create": (222, 107),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setattr": (314, 274),
    # These make the host's disks write everyone's data.
    "sync": (162, 81),
    "syncfs": (306, 267),
    # The kernel and its namespaces. A user namespace would give every capability back. A seccomp
    # filter can make a thread wait for a listener in another, where only SIGKILL reaches it.
    "seccomp": (317, 277),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "syslog": (103, 116),
    "modify_ldt": (154, None),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    # Seccomp does not see the operations that a ring carries out.
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    # Objects that outlive their process, or memory outside its address space.
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "semget": (64, 190),
    "semop": (65, 193),
    "semctl": (66, 191),
    "semtimedop": (220, 192),
    "msgget": (68, 186),
    "msgsnd": (69, 189),
    "msgrcv": (70, 188),
    "msgctl": (71, 187),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    # Changes to files by path or owner, which Landlock does not restrict: root owns most of the
    # system.
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "open_by_handle_at": (304, 265),
    "truncate": (76, 45),
}
# Compilers keep these: a linker makes its output executable.
_DENIED_TO_PROGRAMS: dict[str, tuple[int | None, int | None]] = {
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "fork": (57, None),
    "vfork": (58, None),
    # Takes disk space without taking time.
    "fallocate": (285, 47),
}
# Descriptors in flight count toward their user's limit, and that user may run other workers too.
# Too many end those.
_SEND_FILES: dict[str, tuple[int | None, int | None]] = {
    "sendmsg": (46, 211),
    "sendmmsg": (307, 269),
}
_EXEC: dict[str, tuple[int | None, int | None]] = {"execve": (59, 221), "execveat": (322, 281)}

# (numbers, argument, comparison, value, whether it is denied where the comparison holds)
_Condition = tuple[tuple[int, int], int, int, int, bool]
_CONDITIONS: tuple[_Condition, ...] = (
    ((302, 261), 0, _IF_EQUAL, 0, False),  # prlimit64: 0 is the caller
    ((203, 122), 0, _IF_EQUAL, 0, False),  # sched_setaffinity
    # A stream socket (type 1) cannot send to any socket but its pair.
    ((53, 199), 0, _IF_EQUAL, 1, False),  # socketpair(AF_UNIX)
    ((53, 199), 1, _IF_ANY_BIT, 0xE, True),
    # The owner of a file receives a signal of the caller's choice: F_SETOWN, F_SETSIG, F_SETOWN_EX.
    ((72, 25), 1, _IF_EQUAL, 8, True),
    ((72, 25), 1, _IF_EQUAL, 10, True),
    ((72, 25), 1, _IF_EQUAL, 15, True),
    # Other processes wait for the holder of a lease: F_SETLEASE, F_NOTIFY.
    ((72, 25), 1, _IF_EQUAL, 1024, True),
    ((72, 25), 1, _IF_EQUAL, 1026, True),
    ((16, 29), 1, _IF_EQUAL, 0x8901, True),  # ioctl(FIOSETOWN)
    ((16, 29), 1, _IF_EQUAL, 0x8902, True),  # ioctl(SIOCSPGRP)
    ((16, 29), 1, _IF_EQUAL, 0x5412, True),  # ioctl(TIOCSTI)
)
_CONDITIONS_OF_CHILDREN: tuple[_Condition, ...] = (
    # A process may signal itself, as abort does. SIGKILL stays denied, so that it is known to have
    # come from outside.
    ((62, 129), 0, _IF_EQUAL, _PID, False),  # kill
    ((62, 129), 1, _IF_EQUAL, 9, True),
    ((234, 131), 0, _IF_EQUAL, _PID, False),  # tgkill
    ((234, 131), 2, _IF_EQUAL, 9, True),
    ((157, 167), 0, _IF_EQUAL, 1, True),  # prctl(PR_SET_PDEATHSIG)
    ((157, 167), 0, _IF_EQUAL, 22, True),  # prctl(PR_SET_SECCOMP)
    ((160, 164), 0, _IF_EQUAL, 0, True),  # setrlimit(RLIMIT_CPU), whose hard limit sends SIGKILL
)
_PRLIMIT, _RLIMIT_CPU = (302, 261), 0
_CLONE, _CLONE3 = (56, 220), (435, 435)
_CLONE_THREAD, _CLONE_NEWUSER = 0x00010000, 0x10000000


def build_common(machine: str, *, may_keep_memory_files: bool = False) -> bytes | None:
    """Assemble the filter that all processes of a worker share.

    It denies the calls that none of them needs.

    Args:
      machine: `os.uname().machine`.
      may_keep_memory_files: Whether the process may make files that have no path.

    Returns:
      Classic BPF instructions, or None for a machine whose call numbers are not known here.
    """
    if machine not in _ARCHITECTURES:
        return None
    denied = {n: c for n, c in _DENIED.items() if n != "memfd_create" or not may_keep_memory_files}
    conditions = [*_CONDITIONS, (_CLONE, 0, _IF_ANY_BIT, _CLONE_NEWUSER, True)]
    # clone3 passes its flags behind a pointer, where a filter cannot read them. If it seems
    # missing, libc uses clone.
    calls = _judge(machine, denied, conditions, missing=_CLONE3)
    code = [
        _instruction(_LOAD, _ARCHITECTURE),
        _instruction(_IF_EQUAL, _ARCHITECTURES[machine], 1, 0),
        _instruction(_RETURN, _KILL),
        _instruction(_LOAD, _NUMBER),
        _instruction(_IF_AT_LEAST, _X32, 0, 1),
        _instruction(_RETURN, _KILL),
        _instruction(_IF_AT_LEAST, _NEWEST + 1, 0, 1),
        _fail(errno.ENOSYS),
        *_search(calls),
    ]
    return b"".join(code)


def build_own(
    machine: str,
    *,
    may_exec: bool = False,
    may_fork: bool = False,
    may_send_files: bool = False,
) -> bytes | None:
    """Assemble the filter that a process adds to the common one, for `for_process`.

    The filter is short because each child installs its own, and the kernel then evaluates the
    filter for every call number.

    Args:
      machine: `os.uname().machine`.
      may_exec: Whether the process may execute another program.
      may_fork: Whether it may start processes, and make files executable. Threads always work.
      may_send_files: Whether it may send open files to another process.

    Returns:
      Classic BPF instructions, or None for a machine whose call numbers are not known here.
    """
    if machine not in _ARCHITECTURES:
        return None
    denied = {} if may_fork else dict(_DENIED_TO_PROGRAMS)
    if not may_exec:
        denied |= _EXEC
    if not may_send_files:
        denied |= _SEND_FILES
    conditions = list(_CONDITIONS_OF_CHILDREN)
    if not may_fork:
        conditions.append((_CLONE, 0, _IF_ANY_BIT, _CLONE_THREAD, False))
    column = list(_ARCHITECTURES).index(machine)
    limits = (_PRLIMIT[column], [*_fail_to_limit(_RLIMIT_CPU), _instruction(_RETURN, _ALLOW)])
    calls = sorted([*_judge(machine, denied, conditions), limits])
    return b"".join([_instruction(_LOAD, _NUMBER), *_search(calls)])


def _judge(
    machine: str,
    denied: dict[str, tuple[int | None, int | None]],
    conditions: list[_Condition],
    missing: tuple[int, int] | None = None,
) -> list[tuple[int, list[bytes]]]:
    """Return the instructions for each call that is not simply allowed, sorted by number."""
    column = list(_ARCHITECTURES).index(machine)
    numbers = [pair[column] for pair in denied.values()]
    calls = {number: [_fail(errno.EPERM)] for number in numbers if number is not None}
    if missing:
        calls[missing[column]] = [_fail(errno.ENOSYS)]
    for pair, argument, comparison, value, when in conditions:
        rest = calls.get(pair[column], [_instruction(_RETURN, _ALLOW)])
        calls[pair[column]] = _fail_where(argument, comparison, value, when) + rest
    return sorted(calls.items())


def for_process(code: bytes) -> bytes:
    """Return the filter for the calling process, which may signal only itself."""
    return code.replace(struct.pack("=I", _PID), struct.pack("=I", os.getpid()))


def _search(calls: list[tuple[int, list[bytes]]]) -> list[bytes]:
    """Return code that finds a call's instructions by bisection, or allows the call.

    Bisection does not serve the speed of calls. When a filter is installed, the kernel evaluates it
    for every call number.
    """
    if len(calls) > 4:
        middle = len(calls) // 2
        left, right = _search(calls[:middle]), _search(calls[middle:])
        start = _instruction(_IF_AT_LEAST, calls[middle][0], 0, 1)
        return [start, _instruction(_JUMP, len(left)), *left, *right]
    code = []
    for number, instructions in calls:
        code += [_instruction(_IF_EQUAL, number, 0, len(instructions)), *instructions]
    return [*code, _instruction(_RETURN, _ALLOW)]


def _fail_where(argument: int, comparison: int, value: int, when: bool) -> list[bytes]:
    # The low half of an argument is enough: the kernel reads every value here as an int.
    return [
        _instruction(_LOAD, _ARGUMENTS + 8 * argument),
        _instruction(comparison, value, *((0, 1) if when else (1, 0))),
        _fail(errno.EPERM),
    ]


def _fail_to_limit(resource: int) -> list[bytes]:
    """Deny prlimit64 on a resource if it sets a new limit, that is, if its pointer is not null."""
    second, third = _ARGUMENTS + 8, _ARGUMENTS + 16
    return [
        _instruction(_LOAD, second),
        _instruction(_IF_EQUAL, resource, 0, 5),
        _instruction(_LOAD, third),
        _instruction(_IF_EQUAL, 0, 0, 2),
        _instruction(_LOAD, third + 4),
        _instruction(_IF_EQUAL, 0, 1, 0),
        _fail(errno.EPERM),
    ]


def _fail(error: int) -> bytes:
    return _instruction(_RETURN, _ERRNO | error)


def _instruction(operation: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", operation, if_true, if_false, value)
