"""Test the numbers of system calls against the kernel's own headers."""

import re
from pathlib import Path

import pytest

from selfreg.grading import seccomp

HEADERS = (
    ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm/unistd_64.h"),
    ("/usr/include/asm-generic/unistd.h",),  # used by aarch64
)


@pytest.mark.parametrize("column", [0, 1])
def test_numbers(column):
    header = next((Path(path) for path in HEADERS[column] if Path(path).exists()), None)
    if header is None:
        pytest.skip("no kernel headers here")
    text = header.read_text()
    known = {
        name: int(number)
        for name, number in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", text)
    }
    tables = (seccomp._DENIED, seccomp._DENIED_TO_PROGRAMS, seccomp._EXEC, seccomp._SEND_FILES)
    ours = {name: pair[column] for table in tables for name, pair in table.items()}
    ours |= {"clone": seccomp._CLONE[column], "clone3": seccomp._CLONE3[column]}
    # A number is None for a call that the architecture lacks. Headers may be too old for a call.
    wrong = {name for name, number in ours.items() if name in known and known[name] != number}
    wrong |= {name for name, number in ours.items() if name not in known and (number or 999) < 440}
    assert wrong == set()
    conditional = ("kill", "tgkill", "prctl", "setrlimit", "prlimit64", "sched_setaffinity")
    conditional += ("socketpair", "fcntl", "ioctl")
    conditions = (*seccomp._CONDITIONS_OF_CHILDREN, *seccomp._CONDITIONS)
    assert seccomp._PRLIMIT[column] == known["prlimit64"]
    numbers = list(dict.fromkeys(pair[column] for pair, *_ in conditions))
    assert numbers == [known[name] for name in conditional]


def test_unknown_machines_have_no_filter():
    assert seccomp.build_common("riscv64") is None
    assert seccomp.build_own("riscv64") is None


def run(code: bytes, number: int, arguments: tuple[int, ...] = (), arch: int = 0xC000003E) -> int:
    """Return the answer of a filter, by a small interpreter of classic BPF."""
    data = {0: number, 4: arch}
    for i, value in enumerate(arguments):
        data |= {16 + 8 * i: value & 0xFFFFFFFF, 20 + 8 * i: value >> 32}
    at = accumulator = 0
    while True:
        operation, yes, no, value = seccomp.struct.unpack_from("=HBBI", code, 8 * at)
        at += 1
        if operation == seccomp._LOAD:
            accumulator = data.get(value, 0)
        elif operation == seccomp._JUMP:
            at += value
        elif operation == seccomp._RETURN:
            return value
        else:
            holds = {
                seccomp._IF_EQUAL: accumulator == value,
                seccomp._IF_AT_LEAST: accumulator >= value,
                seccomp._IF_ANY_BIT: bool(accumulator & value),
            }[operation]
            at += yes if holds else no


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_number_is_answered_as_listed(machine):
    column = ("x86_64", "aarch64").index(machine)
    arch = seccomp._ARCHITECTURES[machine]
    filters = (
        (seccomp.build_common(machine), seccomp._DENIED, seccomp._CONDITIONS),
        (
            seccomp.build_own(machine),
            seccomp._DENIED_TO_PROGRAMS | seccomp._EXEC | seccomp._SEND_FILES,
            seccomp._CONDITIONS_OF_CHILDREN,
        ),
    )
    for code, denied, conditions in filters:
        denied_numbers = {pair[column] for pair in denied.values()}
        judged = {pair[column] for pair, *_ in conditions}
        judged |= {seccomp._CLONE[column], seccomp._CLONE3[column], seccomp._PRLIMIT[column]}
        for number in set(range(seccomp._NEWEST + 1)) - judged:
            allowed = run(code, number, arch=arch) == seccomp._ALLOW
            assert allowed is (number not in denied_numbers), number
    common = filters[0][0]
    assert run(common, seccomp._NEWEST + 1, arch=arch) != seccomp._ALLOW
    assert run(common, seccomp._CLONE3[column], arch=arch) != seccomp._ALLOW
    assert run(common, 0, arch=0x40000003) == seccomp._KILL


def test_arguments_are_judged():
    common, own = seccomp.build_common("x86_64"), seccomp.build_own("x86_64")
    pid = seccomp._PID
    assert run(own, 62, (pid, 6)) == seccomp._ALLOW  # kill(itself, SIGABRT)
    assert run(own, 62, (pid, 9)) != seccomp._ALLOW
    assert run(own, 62, (1, 6)) != seccomp._ALLOW
    assert run(common, 72, (0, 3)) == seccomp._ALLOW  # fcntl(F_GETFL)
    assert run(common, 72, (0, 8)) != seccomp._ALLOW
    assert run(own, 302, (0, 0, 0, 1)) == seccomp._ALLOW  # getrlimit(RLIMIT_CPU)
    assert run(own, 302, (0, 3, 1)) == seccomp._ALLOW  # setrlimit(RLIMIT_STACK)
    assert run(own, 302, (0, 0, 1)) != seccomp._ALLOW
    assert run(own, 302, (0, 0, 1 << 32)) != seccomp._ALLOW
    assert run(own, 157, (22, 2)) != seccomp._ALLOW  # prctl(PR_SET_SECCOMP)
    assert run(common, 53, (1, 1 | 0x80000)) == seccomp._ALLOW  # socketpair of streams
    for kind in (2, 3, 5):
        assert run(common, 53, (1, kind)) != seccomp._ALLOW
    assert run(own, 56, (0x3D0F00,)) == seccomp._ALLOW  # clone of a thread
    assert run(own, 56, (17,)) != seccomp._ALLOW
    assert run(seccomp.build_own("x86_64", may_fork=True), 56, (17,)) == seccomp._ALLOW
    assert run(common, 56, (0x10000011,)) != seccomp._ALLOW
    assert run(common, 319) != seccomp._ALLOW  # memfd_create
    keeps = seccomp.build_common("x86_64", may_keep_memory_files=True)
    assert run(keeps, 319) == seccomp._ALLOW
