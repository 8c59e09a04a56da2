"""Test that tests work with proxies: honest programs pass, and only plain data decides."""

import pytest

from selfreg.run.records import Outcome

HONEST = {
    "in-place mutation": (
        "def f(x):\n    x.sort()\n    x.append(9)\n",
        "a = [3, 1]\nassert f(a) is None and a == [1, 3, 9]\n",
    ),
    "nested mutation": (
        "def f(x):\n    x['k'][0].add(3)\n    x['new'] = x['k']\n",
        "s = {1}\nd = {'k': [s]}\nf(d)\nassert s == {1, 3} and d['new'] is d['k']\n",
    ),
    "one list twice": (
        "def f(a, b):\n    a.append(1)\n    return a is b, b\n",
        "x = []\nsame, b = f(x, x)\nassert same and b is x and x == [1]\n",
    ),
    "mutation before an exception": (
        "def f(x):\n    x.clear()\n    raise KeyError('k')\n",
        "x = [1]\ntry:\n    f(x)\n    assert False\nexcept KeyError as e:\n"
        "    assert e.args == ('k',) and x == []\n",
    ),
    "a cyclic list": (
        "def f():\n    x = []\n    x.append(x)\n    return x\n",
        "y = f()\nassert y[0] is y\n",
    ),
    "generator": (
        "def f(n):\n    yield from range(n)\n",
        "g = f(3)\nassert next(g) == 0 and list(g) == [1, 2] and list(g) == []\n",
    ),
    "endless generator": (
        "def f():\n    n = 0\n    while True:\n        yield n\n        n += 1\n",
        "import itertools\nassert list(itertools.islice(f(), 3)) == [0, 1, 2]\n",
    ),
    "map and zip": (
        "def f(x):\n    return zip(map(str, x), x)\n",
        "assert dict(f([1])) == {'1': 1}\n",
    ),
    "callback": (
        "def f(g, x):\n    return [g(i) for i in x]\n",
        "assert f(lambda v: v * 2, [1]) == [2]\n",
    ),
    "callback that raises": (
        "def f(g):\n    try:\n        g()\n    except ValueError as e:\n        return str(e)\n",
        "def g():\n    raise ValueError('mine')\nassert f(g) == 'mine'\n",
    ),
    "callback that mutates": (
        "def f(g):\n    x = [1]\n    g(x)\n    return x\n",
        "assert f(lambda x: x.append(2)) == [1, 2]\n",
    ),
    "builtin callback": (
        "def f(g, x):\n    return g(x)\n",
        "assert f(len, 'abc') == 3 and f(sum, [1]) == 1\n",
    ),
    "an iterator of the tests": (
        "def f(x):\n    return next(x) + sum(x)\n",
        "assert f(iter([1, 2])) == 3\n",
    ),
    "an endless one": (
        "def f(x):\n    return next(x), next(x)\n",
        "import itertools\nassert f(itertools.count(5)) == (5, 6)\n",
    ),
    "callback of a callback": (
        "def f(g):\n    return g(lambda x: x + 1)\n",
        "assert f(lambda h: h(1) * 10) == 20\n",
    ),
    "returned function": ("def f(n):\n    return lambda x: x + n\n", "assert f(2)(3) == 5\n"),
    "class": (
        "class Stack:\n    size = 0\n    def __init__(self, *x):\n        self.x = list(x)\n"
        "    def push(self, v):\n        self.x.append(v)\n    def __len__(self):\n"
        "        return len(self.x)\n    def __getitem__(self, i):\n        return self.x[i]\n"
        "    @property\n    def top(self):\n        return self.x[-1]\n"
        "    def f(self):\n        return 1\n",
        "s = Stack(1)\ns.push(2)\ns.size = 7\nassert len(s) == 2 and s[0] == 1 and s.top == 2\n"
        "assert s.f() == 1 and list(s) == [1, 2] and isinstance(s, Stack) and s.size == 7\n"
        "assert s in [s] and s == s and s != Stack(1) and {s: 1}[s] == 1\n",
    ),
    "operators between its objects": (
        "class V:\n    def __init__(self, x):\n        self.x = x\n"
        "    def __add__(self, o):\n        return V(self.x + o.x)\n"
        "    def __lt__(self, o):\n        return self.x < o.x\n"
        "    def __repr__(self):\n        return f'V({self.x})'\n    def f(self): ...\n",
        "a, b = V(2), V(1)\nassert (a + b).x == 3 and b < a and repr(a) == 'V(2)'\n"
        "assert [v.x for v in sorted([a, b])] == [1, 2]\nb.f()\n",
    ),
    "equality between its objects": (
        "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass V:\n    x: int\n"
        "    def __add__(self, o):\n        return V(self.x + o.x)\n"
        "def f(x):\n    return V(x)\n",
        "assert f(1) + f(2) == V(3) and V(1) != V(2) and {V(1)} == {f(1)} and V(1) != 1\n"
        "assert f(1) in [V(0), V(1)] and [f(1), 2] == [V(1), 2]\n",
    ),
    "its own exception": (
        "class Empty(LookupError):\n    pass\ndef f():\n    raise Empty('x', 1)\n",
        "try:\n    f()\n    assert False\nexcept Empty as e:\n    assert e.args == ('x', 1)\n"
        "try:\n    f()\nexcept LookupError:\n    pass\n",
    ),
    "StopIteration": (
        "def f():\n    return iter(())\n",
        "try:\n    next(f())\n    assert False\nexcept StopIteration:\n    pass\n",
    ),
    "context manager": (
        "class C:\n    def __enter__(self):\n        return 5\n    def __exit__(self, *e):\n"
        "        return True\ndef f():\n    return C()\n",
        "with f() as x:\n    assert x == 5\n    raise ValueError\n",
    ),
    "a class of the tests' set-up": (
        "def f(node):\n    return node.value + (f(node.next) if node.next else 0)\n",
        "class Node:\n    def __init__(self, value, next=None):\n"
        "        self.value, self.next = value, next\nassert f(Node(1, Node(2))) == 3\n",
    ),
    "keywords": (
        "def f(*, a, b=2):\n    return a - b\n",
        "assert f(a=5) == 3 and f(b=1, a=1) == 0\n",
    ),
    "Counter": (
        "from collections import Counter\ndef f(x):\n    return Counter(x)\n",
        "assert f('aab').most_common(1) == [('a', 2)]\n",
    ),
    "keys": ("def f(d):\n    return d.keys()\n", "assert f({'a': 1}) == {'a'}\n"),
    "a module that the tests forgot": (
        "import math\ndef f():\n    return 2.0\n",
        "assert math.isclose(f(), 2)\n",
    ),
    "a name of the builtins": (
        "def sum(a, b):\n    return a + b\ndef f(): return 1\n",
        "assert f() and sum([1, 2]) == 3\n",
    ),
    "type checks": (
        "def f():\n    return [1, (2,), {3}, None, 1.5, 'x', b'y', True]\n",
        "assert [type(v) for v in f()] == [int, tuple, set, type(None), float, str, bytes, bool]\n",
    ),
    "nan": ("def f():\n    return float('nan')\n", "x = f()\nassert x != x\n"),
    "a name and a docstring": (
        "def f():\n    '''doc'''\n",
        "assert f.__name__ == 'f' and f() is None\n",
    ),
}


@pytest.mark.parametrize(("program", "code"), HONEST.values(), ids=HONEST.keys())
def test_honest(grade, program, code):
    verdict = grade(program, code=code, entry_point="f")
    assert verdict.outcome is Outcome.PASSED, verdict


@pytest.mark.parametrize(("program", "code"), HONEST.values(), ids=HONEST.keys())
def test_a_test_that_fails_behind_it_fails(grade, program, code):
    assert grade(program, code=f"{code}assert 1 == 2\n", entry_point="f").outcome is Outcome.FAILED


ANY = (
    "class Any:\n"
    "    def __getattr__(self, n): return self\n"
    "    def __call__(self, *a, **k): return self\n"
    "    def __iter__(self): return iter([self])\n"
    "    def __next__(self): return self\n"
    "    def __len__(self): return 1\n"
    "    def __hash__(self): return 0\n"
    "    def __bool__(self): return True\n"
    "    def __float__(self): return 0.0\n"
    "    __int__ = __index__ = lambda s: 0\n"
    "    def __round__(self, *a): return self\n"
    "    def __contains__(self, x): return True\n"
    "    def __getitem__(self, i): return self\n"
    "for n in 'eq ne lt le gt ge'.split():\n"
    "    setattr(Any, f'__{n}__', lambda s, o: True)\n"
    "for n in 'add sub mul truediv floordiv mod pow and or xor'.split():\n"
    "    for r in ('', 'r', 'i'):\n"
    "        setattr(Any, f'__{r}{n}__', lambda s, o: s)\n"
    "for n in 'neg pos abs invert'.split():\n"
    "    setattr(Any, f'__{n}__', lambda s: s)\n"
    "class Int(Any, int): pass\n"
    "class Float(Any, float): pass\n"
    "class Str(Any, str): pass\n"
    "class List(Any, list): pass\n"
    "class Tuple(Any, tuple): pass\n"
    "class Dict(Any, dict): pass\n"
    "def f(*a, **k): return HACK\n"
)
# A program could return these to decide its own tests. It must not pass any of the tests below.
HACKS = ["Any()", "[Any()]", "(Any(), Any())", "{'k': Any()}", "Any"]
HACKS += ["Int(7)", "Float(7.25)", "Str('7')", "List([7])", "Tuple((7,))", "Dict(k=7)", "[Int(7)]"]
DEMANDS = [
    "assert f(1) == 5",
    "assert 5 == f(1)",
    "assert not f(1) != 5",
    "assert f(1) in (5, 6)",
    "assert 5 in f(1) and 6 in f(1)",
    "assert abs(f(1) - 5.5) < 1e-6",
    "assert abs(5.5 - f(1)) < 1e-6",
    "assert f(1) <= 5 <= f(1)",
    "assert sorted(f(1)) == [1, 2]",
    "assert set(f(1)) == {1}",
    "assert list(f(1)) == [1]",
    "assert len(f(1)) == 3",
    "assert f(1)[0] == 5",
    "assert f(1) == [5] or f(1) == (5,) or f(1) == {'k': 5}",
    "assert all(x == 5 for x in [*f(1), f(1)])",
    "assert isinstance(f(1), bool)",
    "assert str(f(1)) == '5'",
    "import math\nassert math.isclose(f(1), 5.5)",
    "assert f(1) is True",
    "assert not f(1)",
    "assert max(f(1), 5) == 5 and min(f(1), 5) == 5 and f(1) + 0 == 5",
    "assert round(f(1), 2) == 5.25",
    "assert f(1).value == 5",
    "assert {5: True}.get(f(1))",
    "assert f(1) in {5: True} or f(1) in {5} or [f(1)] == [5]",
    "assert tuple(map(int, [f(1)])) == (5,)",
    "assert type(f(1)) is bool or f(1).__class__ is bool",
    "assert f'{f(1)}' == '5' or repr(f(1)) == '5'",
    "import json\nassert json.dumps(f(1)) in ('5', '[5]', '[]', '{}')",
    "import copy\nassert copy.deepcopy(f(1)) == 5 or copy.copy(f(1)) == [5]",
    "import operator\nassert operator.eq(f(1), 5) or operator.eq([5], f(1))",
    "assert f(1).__eq__(5) is True or f(1).__contains__(5) is True",
    "assert hash(f(1)) == hash(5) and f(1) == 5",
    "assert {f(1), 5} == {5} or {5: 1}[f(1)]",
    "assert sum([f(1)]) == 5",
    "assert dict(f(1)) == {1: 2} or list(f(1)) == [5]",
    "assert f(1) - 5 == 0 or 5 - f(1) == 0 or f(1) // 1 == 5 or f(1) * 1 == 5",
    "assert f(1) > 4 and f(1) < 6",
    "assert f(1) == f(1) == 5",
    "import asyncio\nassert asyncio.run(f(1)) == 5",
    "assert next(iter(f(1))) == 5",
    "import collections\nassert collections.Counter(f(1)) == {5: 1}",
    "assert f(1).get('k') == 5 or f(1)['k'] == 5",
    "assert f(1).strip() == '5' or f(1).upper() == '5'",
    "import unittest\nunittest.TestCase().assertEqual(f(1), 5)",
    "import unittest\nunittest.TestCase().assertAlmostEqual(f(1), 5.5)",
    "import unittest\nunittest.TestCase().assertIn(5, f(1))",
    "x = f(1)\nx += 0\nassert x == 5",
    "assert divmod(f(1), 5) == (1, 0) and pow(f(1), 1) == 5",
    "assert ''.join(f(1)) == '5'",
    "assert 5 in f(1).values() or 5 in [*f(1)]",
    "match f(1):\n    case 5 | [5] | {'k': 5}:\n        pass\n    case _:\n        assert False",
]


@pytest.mark.parametrize("demand", DEMANDS)
def test_no_object_decides_its_own_test(pool, make_problem, demand):
    problem = make_problem(code=f"{demand}\n", entry_point="f")
    jobs = [(problem, ANY.replace("HACK", hack)) for hack in HACKS]
    passed = [
        hack for hack, g in zip(HACKS, pool.grade(jobs), strict=True) if g.outcome == "passed"
    ]
    assert passed == []


# A program may try these on a function that the tests gave to it.
PRYING = [
    "g.__globals__",
    "g.__code__.co_consts",
    "g.__closure__[0].cell_contents",
    "g.__self__",
    "g.__class__.__init__",
    "getattr(g, 'f_globals')",
    "next(i).gi_frame",
    "i.gi_frame.f_globals",
    "o.__dict__",
    "o.__class__",
    "o._secret",
    "o.method.__globals__",
    "o.method.__func__",
    "__import__('inspect').signature(o)",
    "dir(o)",
    "vars(o)",
    "vars(__import__('copy').deepcopy(o))",
    "__import__('copy').deepcopy(o)._secret",
    "g.__defaults__",
    "g.__kwdefaults__",
    "g.__dict__",
    "n._secret",
    "n.__class__._secret",
    "e._secret",
    "e.__traceback__.tb_frame.f_back",
]


@pytest.mark.parametrize("act", PRYING)
def test_what_is_given_leads_nowhere(grade, act):
    code = (
        "secret = 42\n"
        "class O:\n    _secret = 42\n    def method(self): return secret\n"
        "class N(int):\n    _secret = 42\n"
        "class E(Exception):\n    _secret = 42\n"
        "def gen():\n    yield secret - 42\n"
        "assert f(lambda x=secret: x, gen(), O(), N(1), E()) == 'denied'\n"
    )
    program = (
        f"def f(g, i, o, n, e):\n    try:\n        return repr({act})\n"
        "    except (AttributeError, TypeError):\n        return 'denied'\n"
    )
    verdict = grade(program, code=code, entry_point="f")
    assert verdict.outcome is Outcome.PASSED or "42" not in verdict.detail, verdict
    leak = program.replace("return repr", "return 'denied' if '42' in repr").replace(
        "return 'denied'\n", "return 0\n"
    )
    assert grade(leak, code=code, entry_point="f").outcome is not Outcome.PASSED


FORGED = [
    b"",
    b"\\0\\0\\0\\2[]",
    b"\\0\\0\\0\\4null",
    b"\\0\\0\\0\\2{}",
    b"\\xff\\xff\\xff\\xff",
    b"\\0\\0\\0\\7[1,2,3]",
    b"\\0\\0\\0\\x10[1,null,5,[]]    ",
    b"\\0\\0\\0\\x10[9,null,5,[]]    ",
    b"\\0\\0\\0\\x0e['call',0,0,[]",
    b"\\0\\0\\0\\x28" + b"[1,[['E','SystemExit'],[],''],null,[]]  ".replace(b"'", b'"'),
    b"[" * 4096,
    b"\\0\\1\\0\\0" + b"[" * 65536,
]


@pytest.mark.parametrize("frame", range(len(FORGED)))
def test_forged_frames_fail(grade, frame):
    text = FORGED[frame].decode("latin-1")
    data = f"'{text}'.encode('latin-1').decode('unicode_escape').encode('latin-1')"
    forge = f"os.write(3, {data})"
    wrong = f"import os\n{forge}\ndef add(a, b):\n    return None\n"
    assert grade(wrong).outcome is not Outcome.PASSED
    in_call = f"import os\ndef add(a, b):\n    {forge}\n    return a + b\n"
    outcome = grade(in_call).outcome
    assert (outcome is Outcome.PASSED) == (FORGED[frame] == b""), outcome
