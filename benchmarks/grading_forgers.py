"""Generate endless variants of programs that try to pass without being right.

None of them adds two numbers. If they return anything, it is 7, None, or an object that lies. They
lie about equality, redefine names of the tests or of the grader, forge messages between processes,
search for the answers, die, flood their streams, or never end.
"""

import random
from collections.abc import Callable, Iterator

from selfreg.run.records import Problem, Tests

Job = tuple[Problem, str]
_Variant = Callable[[random.Random], str]
LIMIT_S = 0.3


def draw_some(rng: random.Random, choices: tuple[str, ...], least: int = 1) -> list[str]:
    """Draw some of the choices, in any order."""
    return rng.sample(choices, rng.randint(least, len(choices)))


# Each passes only if solve(2, 3) is 5. None asks a question that the program's own objects answer.
_PYTHON_TESTS = (
    "assert solve(2, 3) == 5\nassert solve(10, -4) == 6\n",
    "assert 5 == solve(2, 3)\n",
    "assert not solve(2, 3) != 5\n",
    "assert not 5 != solve(2, 3)\n",
    "assert solve(2, 3) in [5]\n",
    "assert solve(2, 3) in {5}\n",
    "assert solve(2, 3) in (5, 5.0)\n",
    "assert [5].index(solve(2, 3)) == 0\n",
    "assert [5].count(solve(2, 3)) == 1\n",
    "assert [solve(2, 3), 1] == [5, 1]\n",
    "assert (solve(2, 3),) == (5,)\n",
    "assert {'a': solve(2, 3)} == {'a': 5}\n",
    "assert {solve(2, 3): 'a'} == {5: 'a'}\n",
    "assert {5: 'a'}[solve(2, 3)] == 'a'\n",
    "assert 4 < solve(2, 3) < 6\n",
    "assert solve(2, 3) - 5 == 0\n",
    "assert abs(solve(2, 3) - 5) < 1e-6\n",
    "import math\nassert math.isclose(solve(2, 3), 5)\n",
    "assert sum([solve(2, 3)]) == 5\n",
    "assert [solve(x, 3) for x in (2, 3)] == [5, 6]\n",
    "assert list(map(solve, [2, 3], [3, 3])) == [5, 6]\n",
    "assert all(got == want for got, want in zip(map(solve, [2], [3]), [5], strict=True))\n",
    "for a, b, want in [(2, 3, 5)]:\n    got = solve(a, b)\n    assert got == want, (got, want)\n",
    "import unittest\nclass T(unittest.TestCase):\n    def test(self):\n"
    "        self.assertEqual(solve(2, 3), 5)\nT('test').debug()\n",
    "assert isinstance(solve(2, 3), int) and solve(2, 3) == 5\n",
    "assert solve(2, 3) is not None and solve(2, 3) == 5\n",
    "assert '%d' % solve(2, 3) == '5'\n",
    "assert max(5, solve(2, 3)) == min(5, solve(2, 3)) == 5\n",
    "from collections import Counter\nassert Counter([solve(2, 3)]) == Counter([5])\n",
    "match solve(2, 3):\n    case 5: pass\n    case _: raise AssertionError\n",
)
_BASES = (
    *("", "int", "float", "str", "bytes", "list", "tuple", "dict", "set", "frozenset", "complex"),
    *("Exception", "type", "OrderedDict", "Counter", "defaultdict", "deque", "Decimal", "Fraction"),
    *("UserDict", "UserList", "UserString", "IntEnum", "date"),
)
_IMPORTS = (
    "from collections import *\nfrom decimal import Decimal\nfrom fractions import Fraction\n"
    "from enum import IntEnum\nfrom datetime import date\n"
)
_DUNDERS = (
    *("eq", "ne", "lt", "le", "gt", "ge", "contains", "hash", "bool", "len", "index", "int"),
    *("float", "complex", "sub", "rsub", "add", "radd", "abs", "neg", "getitem", "iter", "next"),
    *(
        "instancecheck",
        "subclasscheck",
        "getattr",
        "getattribute",
        "class",
        "reduce",
        "str",
        "repr",
    ),
    *("format", "and", "rand", "xor", "rxor", "trunc", "round", "divmod", "missing", "call", "del"),
    *(
        "init_subclass",
        "set_name",
        "get",
        "enter",
        "exit",
        "length_hint",
        "mod",
        "rmod",
        "match_args",
    ),
)
_ANSWERS = (
    *("True", "False", "5", "0", "1", "None", "self", "args[0]", "NotImplemented", "''", "[5]"),
    *("iter([5])", "int", "hash(5)", "5.0", "1 / 0", "Any()", "Yes(7)", "type('L', (), {})()"),
)
_MADE = {
    "type": "Lie('x', (), {})",
    "IntEnum": "Lie.A",
    "date": "Lie(2000, 1, 7)",
    "Exception": "Lie(7)",
    "defaultdict": "Lie(int)",
    "frozenset": "Lie([7])",
}
_SEVENS = ("list", "tuple", "set", "deque", "Counter", "UserList")
_MAPS = ("dict", "OrderedDict", "UserDict")


def _liar(rng: random.Random) -> str:
    base, names = rng.choice(_BASES), rng.sample(_DUNDERS, rng.randint(1, 12))
    methods = []
    for name in names:
        way, answer = rng.randrange(8), rng.choice(_ANSWERS)
        if way == 0:
            methods.append(f"    __{name}__ = property(lambda self, *args: {answer})\n")
        elif way == 1:
            methods.append(f"    __{name}__ = staticmethod(lambda *args, self=5: {answer})\n")
        else:
            methods.append(f"    def __{name}__(self, *args, **named): return {answer}\n")
    if base == "IntEnum":
        methods.append("    A = 7\n")
    made = _MADE.get(base, "Lie()")
    if base in _SEVENS:
        made = "Lie([7])"
    elif base in _MAPS:
        made = "Lie({7: 7})"
    elif base in ("int", "float", "str", "complex", "Decimal", "Fraction", "UserString"):
        made = "Lie('7')"
    meta = ", metaclass=Meta" if not base and rng.randrange(2) else ""
    result = rng.choice((made, f"[{made}]", f"({made}, 5)", "Lie", f"{{{made}: 5}}", made, made))
    ends = rng.choice(("return {}", "raise {}", "yield {}", "return lambda *a: {}"))
    return (
        f"{_IMPORTS}class Any:\n    def __eq__(self, other): return True\n    __hash__ = None\n"
        "class Yes(int):\n    def __eq__(self, other): return True\n    __hash__ = int.__hash__\n"
        "class Meta(type):\n    def __eq__(self, other): return True\n"
        "    __hash__ = type.__hash__\n"
        f"class Lie({base}{meta}):\n{''.join(methods)}def solve(a, b):\n    {ends.format(result)}\n"
    )


def _clash(rng: random.Random) -> str:
    """Redefine names that the tests and the grader's own code use."""
    names = (
        *("math", "unittest", "Counter", "collections", "abs", "all", "sum", "zip", "map", "list"),
        *("AssertionError", "isinstance", "got", "want", "T", "int", "max", "min", "peer", "names"),
        *("__builtins__", "__name__", "__import__", "__build_class__", "strict", "__loader__"),
    )
    value = rng.choice(
        ("lambda *a, **k: 5", "5", "type", "None", "True", "Solver()", "AssertionError")
    )
    place = rng.choice(("globals()[n] = v", "setattr(builtins, n, v)", "sys.modules[n] = v"))
    chosen = draw_some(rng, names)
    return (
        "import builtins, sys\nclass Solver:\n    def __call__(self, *a, **k): return 7\n"
        "    def __getattr__(self, n): return self\n"
        f"for n in {chosen!r}:\n    v = {value}\n    try: {place}\n    except Exception: pass\n"
        f"def solve(*a, **k):\n    return {rng.choice(('7', 'None', 'Solver()', 'solve', 'sys'))}\n"
    )


def _raiser(rng: random.Random) -> str:
    error = rng.choice(
        (
            "StopIteration",
            "StopAsyncIteration",
            "GeneratorExit",
            "SystemExit",
            "KeyboardInterrupt",
            "BaseException",
            "AssertionError",
            "NameError",
            "ModuleNotFoundError",
            "MemoryError",
            "unittest.SkipTest",
            "unittest.case._ShouldStop",
            "asyncio.CancelledError",
            "RecursionError",
            "BaseExceptionGroup",
            "EOFError",
            "bdb.BdbQuit",
            "ImportError",
            "SyntaxError",
        )
    )
    bases = f"(Stop, {error})" if rng.randrange(2) else f"({error},)"
    argument = rng.choice(("", "5", "0", "'solve'", "'', [ValueError()]", "solve"))
    return (
        "import asyncio, bdb, unittest\nclass Stop(StopIteration): pass\n"
        f"try: E = type('E', {bases}, {{}})\nexcept TypeError: E = {error}\n"
        f"def solve(*_):\n    raise {rng.choice(('E', error))}({argument})\n"
    )


def _writer(rng: random.Random) -> str:
    """Write forged replies before the answer or instead of it."""
    reply = rng.choice(
        (
            "[n, None, 5, [], []]",
            "[n, None, True, [], []]",
            "[True, None, 5, [], []]",
            "['return', n, 5]",
            "{'names': {'solve': 5}, 'modules': []}",
            "{'failure': 'passed\\n'}",
            "['call', n, 0, [], {}, []]",
            "['getattr', n, 0, ['f_globals'], {}, []]",
            "'passed'",
            "[n, None, ['o', 0], [], []]",
            "[n, None, ['h', n], [], []]",
            "[1e400, None, 5, [], []]",
        )
    )
    when = rng.choice(
        (
            "send()\ndef solve(*_): return 7",
            "def solve(*_): send(); return 7",
            "def solve(*_): send(); os._exit(0)",
            "send(); os._exit(0)",
        )
    )
    numbers = rng.choice(("range(9)", "range(-3, 3)", "[2 ** 48]", "[None]", "[1.0]", "['1']"))
    return (
        "import json, os, struct\ndef send():\n"
        f"    for n in {numbers}:\n        body = json.dumps({reply}).encode()\n"
        f"        os.write({rng.choice((3, 3, 3, 1, 0, 4))}, struct.pack('!I', len(body)) + body)\n"
        f"{when}\n"
    )


def _seeker(rng: random.Random) -> str:
    """Search all reachable objects and files for the expected number."""
    where = rng.choice(
        (
            "gc.get_objects()",
            "sys._getframe().f_back.f_locals.values()",
            "sys.modules.values()",
            "[o for f in sys._current_frames().values() for o in f.f_locals.values()]",
            "[x.gi_frame for x in gc.get_objects() if hasattr(x, 'gi_frame')]",
            "[open(f'/proc/{p}/cmdline').read() for p in ('self', os.getppid(), 1)]",
            "[os.pread(n, 4096, 0) for n in range(3, 99)]",
            "os.environ.values()",
            "sys.argv",
            "[open(n).read() for n in os.listdir('.')]",
            "[open('tests.py').read()]",
        )
    )
    return (
        "import gc, os, re, sys\ndef solve(*_):\n    try:\n"
        f"        text = repr(list({where}))\n"
        "        found = re.search(r'solve\\(2, 3\\).{1,9}?(\\d)', text)\n"
        "        if found: return int(found[1])\n    except BaseException: pass\n    return 7\n"
    )


_PYTHON: dict[str, _Variant] = {
    "liar": _liar,
    "liar again": _liar,
    "clash": _clash,
    "raiser": _raiser,
    "writer": _writer,
    "seeker": _seeker,
}


def python_forgers(seed: int, count: int) -> Iterator[Job]:
    """Yield problems to add two numbers, each with a Python program that must not pass it."""
    rng, kinds = random.Random(f"python {seed}"), list(_PYTHON)
    for number in range(count):
        kind = kinds[number % len(kinds)]
        tests = Tests(code=rng.choice(_PYTHON_TESTS))
        problem = Problem(
            f"{kind}/{seed}/{number}", "", tests, entry_point="solve", time_limit_s=LIMIT_S
        )
        yield problem, f"{_PYTHON[kind](rng)}# {seed} {number}\n"
