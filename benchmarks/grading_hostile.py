"""Generate endless variants of programs that try to stop the grader, and noisy honest programs.

Hostile programs never pass, because their `solve` returns None. They limit their own damage, so
that a grader without a sandbox survives them. Noisy programs pass.
"""

import random
from collections.abc import Callable, Iterator

SOLVE_NONE = "\ndef solve(*_):\n    return None\n"
_C = "import ctypes\nC = ctypes.CDLL(None, use_errno=True)\n"

_Variant = Callable[[random.Random], str]


def _limit(rng: random.Random) -> str:
    soft = rng.choice((0, 1, 4096))
    return (
        f"import resource\nresource.setrlimit({rng.randrange(16)}, ({soft}, {soft}))\n"
        "for n in range(10**6): str(n)\nopen('x', 'w').write('x' * 9999)\n"
    )


def _timer(rng: random.Random) -> str:
    signal, clock = rng.choice((9, 15, 19, 34, 64)), rng.choice((0, 1, 2, 4))
    return (
        f"{_C}import time\nevent, timer = (ctypes.c_long * 8)(0, {signal}), ctypes.c_int()\n"
        f"C.syscall(222, {clock}, event, ctypes.byref(timer))\n"
        f"when = (ctypes.c_long * 4)(0, {rng.randrange(10**6)}, 0, 99999)\n"
        "C.syscall(223, timer, 0, when, None)\ntime.sleep(0.05)\n"
    )


def _signal(rng: random.Random) -> str:
    number, target = rng.randrange(1, 65), rng.choice(("os.getpid()", "0", "-1", "os.getppid()"))
    way = rng.choice(
        (
            f"os.kill({target}, {number})",
            f"signal.raise_signal({number})",
            f"signal.pthread_kill(threading.get_ident(), {number})",
            "signal.setitimer(signal.ITIMER_REAL, 0.001); time.sleep(0.1)",
            f"C.syscall(129, {target}, {number}, ctypes.create_string_buffer(128))",
            f"C.prctl(1, {number}, 0, 0, 0)",
            f"fcntl.fcntl(3, 10, {number}); fcntl.fcntl(3, 8, {target})",
        )
    )
    return f"{_C}import fcntl, os, signal, threading, time\n{way}\n"


def _descriptor(rng: random.Random) -> str:
    first, other = rng.randrange(8), rng.randrange(-1, 300)
    return rng.choice(
        (
            f"import os\nos.closerange({first}, 999)\n",
            f"import os\nos.dup2({rng.randrange(3)}, 3)\n",
            f"import os\nos.set_blocking(3, False)\nos.read(3, {rng.randrange(1, 99)})\n",
            f"{_C}C.shutdown(3, {rng.randrange(3)})\n",
            "import socket\ns = socket.socket(fileno=3)\n"
            f"s.setsockopt(1, {rng.randrange(1, 60)}, 1)\n"
            f"s.sendall(b'x' * {rng.randrange(1 << 17)})\n",
            f"import os\nx = [os.dup(0) for _ in range(999)]\nos.close({other})\n",
            "import array, os, socket\ns = socket.socket(fileno=3)\n"
            "for _ in range(99): s.sendmsg([b'x'], [(1, 1, array.array('i', [0] * 99))])\n",
        )
    )


def _frame(rng: random.Random) -> str:
    body = rng.choice(
        (
            rng.randbytes(rng.randrange(99)),
            b"[" * rng.randrange(1, 200_000),
            b'{"names": {"solve": ["o", 0]}, "modules": ' + rng.choice((b"7}", b"[[]]}", b"[{}]}")),
            b'{"names": %d, "modules": []}' % rng.randrange(9),
            b'{"failure": %s}' % rng.choice((b"null", b"[]", b'"passed"', b'"test_error\\nx"')),
            b"1" * rng.randrange(1, 99_999),
            b"[1e999, NaN, -Infinity]",
            b'["call", 1, 0, [], {}]' * rng.randrange(1, 9),
            b'"\\ud800"',
        )
    )
    length = rng.choice((len(body), len(body) + 1, 0, 1, 0x00FFFFFF, 0xFFFFFFFF))
    end = rng.choice(("os._exit(0)", "pass", "os.write(3, b'x' * 9)"))
    return f"import os, struct\nos.write(3, struct.pack('!I', {length}) + {body!r})\n{end}\n"


def _task(rng: random.Random) -> str:
    flags = rng.choice((0, 17, 0x4100, 0x4111, 0x3D0F00, 0x10000000, 0x20000000, 0x40000000))
    return rng.choice(
        (
            f"{_C}if C.syscall(56, {flags}, 0, 0, 0, 0) == 0: C.syscall(60, 0)\n",
            f"{_C}C.syscall({rng.choice((57, 58, 435, 272))}, 0, 0)\n",
            f"import threading, time\nfor _ in range({rng.choice((300, 3000))}):\n"
            "    threading.Thread(target=time.sleep, args=(9,), daemon=True).start()\n",
            "import os\nos.posix_spawn('/bin/true', ['true'], {})\n",
            f"{_C}C.prctl({rng.randrange(1, 60)}, {rng.randrange(9)}, 0, 0, 0)\n",
            f"{_C}C.syscall(317, {rng.randrange(3)}, {rng.randrange(64)}, 0)\n",
            f"{_C}C.ptrace({rng.randrange(20)}, 0, 0, 0)\n",
            f"{_C}C.syscall(273, {rng.randrange(1 << 20)}, 24)\nC.syscall(60, 0)\n",
        )
    )


def _memory(rng: random.Random) -> str:
    return rng.choice(
        (
            f"x = [bytearray(1 << {rng.randrange(20, 28)}) for _ in range(10**4)]\n",
            "import mmap\n"
            f"x = [mmap.mmap(-1, 1 << {rng.randrange(20, 30)}) for _ in range(9999)]\n",
            f"{_C}C.memset({rng.randrange(1 << 20)}, 0, 9)\n",
            f"{_C}import sys\nsys.setrecursionlimit(10**9)\nf = lambda: f()\nf()\n",
            f"{_C}C.syscall(131, (ctypes.c_long * 3)(8, 0, {rng.choice((2048, 64))}), None)\n"
            "import faulthandler\nfaulthandler._stack_overflow()\n",
            f"eval('(' * {rng.randrange(50, 99999)})\n",
        )
    )


def _file(rng: random.Random) -> str:
    size = 1 << rng.randrange(10, 24)
    return rng.choice(
        (
            f"import os\nfor i in range({min(9999, (1 << 27) // size)}):\n"
            f"    open(str(i), 'wb').write(bytes({size}))\n",
            f"import os\nfor i in range(96):\n"
            f"    f = os.open(str(i), os.O_CREAT | os.O_RDWR); os.posix_fallocate(f, 0, {size})\n",
            f"import os\nfor i in range({rng.randrange(2, 400)}): os.mkdir('d'); os.chdir('d')\n",
            "import os\nos.mkdir('d', 0)\nos.symlink('/', 'root')\nos.mkfifo('f')\nopen('f')\n",
            "import fcntl, os\nfcntl.flock(os.open(os.__file__, 0), 2)\n",
            f"import os\nos.sync()\nos.truncate('x', {size})\n",
            "import socket\na, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
            "a.sendto(b'x', '/dev/log')\n",
        )
    )


def _name(rng: random.Random) -> str:
    name = rng.choice(("nt", "winreg", "msvcrt", "test", "solve", "antigravity", "__main__"))
    return rng.choice(
        (
            f"import types\nsolve = {name} = types.ModuleType({name!r})\n",
            f"class {name}(type): __call__ = None\nsolve = {name}\n",
            f"import sys\nsys.modules[{name!r}] = None\n",
            "def solve(*_): raise ModuleNotFoundError(name='numpy')\n#",
            "def solve(*_): raise NameError('solve')\n#",
        )
    )


def _wait(rng: random.Random) -> str:
    return rng.choice(
        (
            "import os\nos.read(3, 1 << 16)\nos.read(3, 1)\n",
            "import select\nselect.select([], [], [])\n",
            "import threading\nlock = threading.Lock()\nlock.acquire(), lock.acquire()\n",
            "import os\nos.kill(os.getpid(), 19)\n",
            "import os, time\ndef solve(*_):\n    os.write(3, b'\\0\\x0f\\0\\0')\n    while 1:\n"
            f"        os.write(3, b' '); time.sleep({rng.choice((0.0005, 0.002, 0.03))})\n#",
            "import os\ndef solve(*_):\n    while 1: os.fsync(os.open(os.__file__, 0))\n#",
            f"{_C}C.syscall(202, (ctypes.c_int * 1)(), 128, 0, 0)\n",
        )
    )


_KINDS: tuple[_Variant, ...] = (
    *(_limit, _timer, _signal, _descriptor, _frame, _task, _memory, _file, _name),
)
_NOISE = (
    "import sys\nsys.stderr.write('x' * {size})\n",
    "print('x' * {size})\n",
    "import os\nos.write(2, b'x' * {size})\nos.write(1, b'x' * {size})\n",
    "import warnings\nfor n in range({size} // 99): warnings.warn('x' * 99 + str(n))\n",
    "import threading\nfor _ in range({size} // 9999 + 1):\n"
    "    thread = threading.Thread(target=lambda: 1 / 0)\n    thread.start(); thread.join()\n",
    "import logging\nlogging.getLogger().error('x' * {size})\n",
)


def hostile_programs(seed: int, count: int, *, waiting: bool = True) -> Iterator[str]:
    """Yield distinct programs whose function `solve` passes no test.

    Args:
      seed: The seed of the variants.
      count: The number of programs.
      waiting: Whether to include programs that run until a time limit ends them.
    """
    rng = random.Random(seed)
    kinds = (*_KINDS, _wait) if waiting else _KINDS
    for number in range(count):
        yield f"{kinds[number % len(kinds)](rng)}{SOLVE_NONE}# {seed} {number}\n"


def noisy_programs(solution: str, seed: int, count: int) -> Iterator[str]:
    """Yield distinct programs that put noise on their streams before the right solution."""
    rng = random.Random(seed)
    for number in range(count):
        noise = _NOISE[number % len(_NOISE)].format(size=rng.choice((300, 7000, 70_000, 300_000)))
        yield f"{noise}{solution}# {seed} {number}\n"
