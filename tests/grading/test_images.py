"""Test images: a hostile side's claims about its classes and exceptions are data or refused."""

import json
import sys

import pytest

from selfreg.grading import functions, proxies, streams
from selfreg.grading.remote import Peer, ProtocolError
from selfreg.run.records import Outcome

NAMES = ["x", "_y", "__eq__", "__len__", "__class__", "__getattribute__", "__new__", "__del__"]


def peer():
    return Peer(lambda _: None, lambda: b"", proxies.JUDGE, repr)


@pytest.mark.parametrize(
    "value",
    [
        *(["V"], ["V", 0], ["V", 0, 0, None, 5], ["V", "0", 0, ["L", "list", []], ["l"]]),
        *(["V", 0, 0, ["L", "type", []], 5], ["V", 0, 0, ["L", "object", []], 5]),
        *(["V", 0, 0, ["L", "list", []], ["d"]], ["V", 0, 0, ["I", "int", []], "5"]),
        *(["V", 0, 0, ["I\0", "int", []], 5], ["V", 0, 0, ["I", "bool", []], True]),
        *(["V", 0, 0, 5, 5], ["V", 0, 0, ["Q", "deque", []], ["q", "x"]], ["V", 0, 0, [], 5]),
        *(["D", 5], ["D", ["o", 0], 1], ["E", "eval"], ["E", "X", 0, [], ["E", "int"]]),
        *(["L", "os", "system", ["E", "eval"]], ["L", 5, 5, 5], ["h", 0], ["h", -1], ["X"]),
        *(["X", ["E", "ValueError"], [], None, {"__class__": 5}], ["X", ["h", 0], [], None, {}]),
        *(["X", ["o", 0], [], None, {}], ["X", ["T", "int"], [5], None, {}]),
    ],
    ids=json.dumps,
)
def test_nonsense_is_told(value):
    side = peer()
    with pytest.raises(ProtocolError):
        side.adopt(value)
    assert side.broken


def test_nothing_of_the_judge_is_made():
    side = peer()
    side.number(print)  # an object of the tests, which gets number 0
    for value in (["X", ["h", 0], ["!"], None, {}], ["E", "X", 1, [], ["h", 0]]):
        with pytest.raises(ProtocolError):
            side.adopt(value)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (functions.__name__, "TestsError"),
        ("selfreg.grading.child", "ChildOver"),
        ("selfreg.grading.child", "JailError"),
        ("unittest.case", "SkipTest"),
        ("unittest", "SkipTest"),
        ("asyncio.exceptions", "CancelledError"),
    ],
)
def test_a_program_raises_no_error_that_is_not_its_own(module, name):
    __import__(module)
    made = peer().adopt(["L", module, name, ["E", "Exception"]])
    assert made is not getattr(sys.modules[module], name)
    assert made is Exception


def test_an_image_takes_no_special_name_of_its_class():
    image = peer().adopt(["V", 0, 0, ["I", "int", NAMES], 5])
    kind = type(image)
    assert image == 5
    assert kind.__class__ is type
    assert kind.__new__ is int.__new__
    assert kind.__getattribute__ is int.__getattribute__
    assert not hasattr(kind, "__del__")
    assert hash(image) == hash(5)


SKIPS = "import io, unittest\nclass T(unittest.TestCase):\n    def test(self):\n"
SKIPS += "        self.assertEqual(f(1), 5)\n"
SKIPS += "suite = unittest.defaultTestLoader.loadTestsFromTestCase(T)\n"
SKIPS += "assert unittest.TextTestRunner(stream=io.StringIO()).run(suite).wasSuccessful()\n"


@pytest.mark.parametrize(
    "body",
    [
        "import unittest; raise unittest.SkipTest('x')",
        "class SkipTest(Exception): pass\n    raise SkipTest",
        "import unittest\n    class Skip(unittest.SkipTest): pass\n    raise Skip",
        "raise KeyboardInterrupt",
        "raise SystemExit(0)",
        "raise GeneratorExit",
        "raise StopIteration(5)",
    ],
)
def test_unittest_is_not_skipped(grade, body):
    assert grade("def f(x): return 5\n", code=SKIPS, entry_point="f").outcome is Outcome.PASSED
    verdict = grade(f"def f(x):\n    {body}\n", code=SKIPS, entry_point="f")
    assert verdict.outcome in (Outcome.FAILED, Outcome.EXCEPTION), verdict


@pytest.mark.parametrize(
    "program",
    [
        "def f(x): return ModuleNotFoundError('x', name='x')\n",
        "def f(x): return NameError('x', name='x')\n",
        "def f(x): raise ModuleNotFoundError('x', name='x')\n",
        "def f(x): return Exception(ModuleNotFoundError('x', name='x'))\n",
    ],
)
@pytest.mark.parametrize("code", ["raise f(1)\n", "raise f(1).args[0]\n", "g(f(1))\n"])
def test_no_error_of_the_program_is_blamed_on_the_tests(grade, program, code):
    program += "def g(e): raise e\n"
    verdict = grade(program, code=code, entry_point="f")
    assert verdict.outcome in (Outcome.FAILED, Outcome.EXCEPTION), verdict


def test_streams_are_the_judge_s_own_again(pool, make_problem):
    """Tests that leave sys.stdout, sys.stdin and input replaced change no later verdict."""
    leaves = (
        "import builtins, io, sys\nsys.stdout = sys.stderr = io.StringIO()\n"
        "sys.stdin = io.StringIO('1')\nbuiltins.input = builtins.print = lambda *_: '1'\n"
        "assert f() == 1\n"
    )
    reads = "assert f() == 'nothing'\n"
    program = "def f():\n    return int(input())\n"
    later = "def f():\n    try:\n        return input()\n    except EOFError:\n"
    later += "        return 'nothing'\n"
    first = make_problem(code=leaves, entry_point="f")
    second = make_problem(code=reads, entry_point="f")
    for number in range(4):  # so that each worker gets a job
        grades = pool.grade([(first, f"{program}# {number}"), (second, f"{later}# {number}")])
        assert [grade.outcome for grade in grades] == [Outcome.PASSED] * 2, grades


def test_the_judge_s_functions_stay_as_they_are():
    assert streams.standing()["input"] is input
