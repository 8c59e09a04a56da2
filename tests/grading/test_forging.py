"""Test programs that try to pass without being right, with one trick per test."""

from benchmarks.grading_forgers import python_forgers
from benchmarks.grading_forgers_cpp import cpp_forgers
from selfreg.run.records import Language, Outcome

RIGHT = "def add(a, b):\n    return a + b\n"
WRONG = "def add(a, b):\n    return None\n"

PYTHON_TRICKS = {
    "exit at import": "import sys\nsys.exit(0)\n",
    "hard exit at import": "import os\nos._exit(0)\n",
    "exit in the tests": "import sys\ndef add(a, b):\n    sys.exit(0)\n",
    "hard exit in the tests": "import os\ndef add(a, b):\n    os._exit(0)\n",
    "raise SystemExit in the tests": "def add(a, b):\n    raise SystemExit\n",
    "print success": WRONG + "print('passed', 'OK', '{\"outcome\": \"passed\"}')\n",
    "exit handler": "import atexit, os\natexit.register(os._exit, 0)\n" + WRONG,
    "exit handler that prints": "import atexit\natexit.register(print, 'passed')\n" + WRONG,
    "exit in a finalizer": (
        "import os\n"
        "class Evil:\n"
        "    def __del__(self):\n"
        "        os._exit(0)\n"
        "evil = Evil()\n" + WRONG
    ),
    "raise in a finalizer": (
        "class Evil:\n"
        "    def __del__(self):\n"
        "        raise SystemExit(0)\n"
        "def add(a, b):\n"
        "    Evil()\n"
    ),
    "exit in the exception hook": "import os, sys\nsys.excepthook = lambda *_: os._exit(0)\n"
    + WRONG,
    "replace AssertionError": (
        "import builtins\nbuiltins.AssertionError = AssertionError = Warning\n" + WRONG
    ),
    "replace the builtins of the tests": (
        "import builtins\n__builtins__ = {}\nbuiltins.__dict__['abs'] = lambda _: 0\n" + WRONG
    ),
    "replace exec and compile": (
        "import builtins\nbuiltins.exec = builtins.compile = lambda *_, **__: None\n" + WRONG
    ),
    "replace os.write": "import os\nos.write = lambda *_: 0\n" + WRONG,
    "write junk to every file": (
        "import os\n"
        "for fd in range(3, 256):\n"
        "    for junk in (b'passed', b'+', b'\\x00' * 16, b'{\"outcome\": \"passed\"}'):\n"
        "        try: os.write(fd, junk)\n"
        "        except OSError: pass\n"
        "os._exit(0)\n"
    ),
    "close every file": "import os\nos.closerange(0, 65536)\n" + WRONG,
    "write what the frames hold": (
        "import os, sys\n"
        "frame, found = sys._getframe(), []\n"
        "while frame:\n"
        "    for values in (frame.f_locals, frame.f_globals):\n"
        "        found += [v for v in values.values() if isinstance(v, (bytes, str))]\n"
        "    frame = frame.f_back\n"
        "for value in found:\n"
        "    try: os.write(3, value if isinstance(value, bytes) else value.encode())\n"
        "    except (OSError, UnicodeError): pass\n"
        "os._exit(0)\n"
    ),
    "skip the tests by tracing": (
        "import sys\n"
        "def trace(frame, event, arg):\n"
        "    try: frame.f_lineno += 1\n"
        "    except Exception: pass\n"
        "    return trace\n"
        "sys.settrace(trace)\n" + WRONG
    ),
    "an exception that claims to be none": (
        "class Meta(type):\n"
        "    def __subclasscheck__(cls, other): return False\n"
        "    __instancecheck__ = __subclasscheck__\n"
        "class Evil(BaseException, metaclass=Meta): pass\n"
        "def add(a, b):\n"
        "    raise Evil\n"
    ),
    "return from a thread": (
        "import os, threading\n"
        "def add(a, b):\n"
        "    threading.Thread(target=os._exit, args=(0,)).start()\n"
        "    while True: pass\n"
    ),
}


def test_python_tricks(pool_in_each_way, make_problem):
    problem = make_problem(time_limit_s=0.5)
    grades = pool_in_each_way.grade([(problem, program) for program in PYTHON_TRICKS.values()])
    fine = (Outcome.FAILED, Outcome.EXCEPTION)
    pairs = zip(PYTHON_TRICKS, grades, strict=True)
    assert [(name, grade) for name, grade in pairs if grade.outcome not in fine] == []


def test_patched_builtins_do_not_change_the_tests(grade):
    program = "import builtins\nbuiltins.len = lambda _: 2\ndef add(a, b):\n    return []\n"
    assert grade(program, code="assert len(add(1, 2)) == 2\n").outcome is not Outcome.PASSED


def test_tests_that_catch_everything_do_not_hide_an_end(grade):
    code = "try:\n    add(2, 3)\nexcept:\n    pass\n"
    assert grade("import os\ndef add(a, b): os._exit(0)\n", code=code).outcome is Outcome.EXCEPTION
    assert grade("def add(a, b): 1 / 0\n", code=code).outcome is Outcome.PASSED


def test_a_program_that_goes_on_talking_fails(grade):
    late = (
        "import os, threading, time\n"
        "def talk():\n    time.sleep(0.05)\n    os.write(3, b'x')\n"
        "def add(a, b):\n"
        "    if a == 10:\n        os.write(3, b'')\n"
        "        threading.Thread(target=talk).start()\n"
        "    return a + b\n"
    )
    code = "import time\nassert add(10, 1) == 11\ntime.sleep(0.3)\n"
    assert grade(late, code=code).outcome is Outcome.EXCEPTION


def test_a_reply_cannot_come_before_its_request(grade):
    # The program answers the second call during the first one.
    early = (
        "import json, os, struct\n"
        "def reply(n, x):\n"
        "    body = json.dumps([n, None, x, [], []]).encode()\n"
        "    os.write(3, struct.pack('!I', len(body)) + body)\n"
        "def add(a, b):\n    reply(1, 5), reply(2, 6)\n    while True: os.read(3, 1)\n"
    )
    assert grade(early).outcome is Outcome.EXCEPTION


def test_a_right_program_that_scribbles_into_the_report_fails(grade):
    assert grade("import os\nos.write(3, b'x')\n" + RIGHT).outcome is Outcome.EXCEPTION


def test_a_right_program_may_print(grade):
    assert grade("print('x' * 10**6)\n" + RIGHT).outcome is Outcome.PASSED


def test_a_right_program_may_leave_a_thread_and_exit_handlers(grade):
    program = (
        "import atexit, threading, time\n"
        "atexit.register(time.sleep, 3600)\n"
        "threading.Thread(target=time.sleep, args=(3600,)).start()\n"
    )
    assert grade(program + RIGHT).outcome is Outcome.PASSED


CPP_WRONG = "int add(int a, int b) { return 0; }\n"
CPP_TRICKS = {
    "exit in the tests": "#include <cstdlib>\nint add(int a, int b) { exit(0); }",
    "hard exit in the tests": "#include <unistd.h>\nint add(int a, int b) { _exit(0); }",
    "quick_exit in the tests": "#include <cstdlib>\nint add(int a, int b) { quick_exit(0); }",
    "exit in a constructor": (
        "#include <unistd.h>\n__attribute__((constructor)) void f() { _exit(0); }\n" + CPP_WRONG
    ),
    "exit in a static object": (
        "#include <cstdlib>\nstruct Evil { Evil() { exit(0); } } evil;\n" + CPP_WRONG
    ),
    "exit on abort": (
        "#include <csignal>\n#include <cstdlib>\n"
        "int add(int a, int b) { signal(SIGABRT, [](int) { _Exit(0); }); return 0; }"
    ),
    "print success": '#include <cstdio>\nint add(int a, int b) { puts("passed"); return 0; }',
    "write junk to every file": (
        "#include <cstdlib>\n#include <unistd.h>\n"
        'int add(int a, int b) { for (int i = 0; i < 256; i++) write(i, "passed", 6); exit(0); }'
    ),
    "rename main": "#define main other\n" + CPP_WRONG,
    "no asserts": "#define NDEBUG\n#include <cassert>\n" + CPP_WRONG + "#define assert(x)\n",
    "a main by another name": (
        '#define main other\nint f() __asm__("main");\nint f() { return 0; }\n' + CPP_WRONG
    ),
    "the main of the harness": (
        'extern "C" int __wrap_main(int, char**) { return 0; }\n' + CPP_WRONG
    ),
}


def test_cpp_tricks(pool_in_each_way, make_problem):
    tests = (
        "#undef NDEBUG\n#include <cassert>\n"
        "int main() { assert(add(2, 3) == 5); assert(add(10, -4) == 6); }\n"
    )
    problem = make_problem(Language.CPP, code=tests)
    grades = pool_in_each_way.grade([(problem, program) for program in CPP_TRICKS.values()])
    pairs = zip(CPP_TRICKS, grades, strict=True)
    bad = [(name, g) for name, g in pairs if g.outcome is Outcome.PASSED or not g.is_verdict]
    assert bad == []


# A program can raise or override these to make a test's own comparison true.
WAYS_AROUND = {
    "the end of a map": (
        "def solve(a):\n    raise StopIteration\n",
        "for got, want in zip(map(solve, [1, 2]), [2, 3]):\n    assert got == want\n",
    ),
    "the end of a map of a lambda": (
        "class Stop(StopIteration):\n    pass\ndef solve(a):\n    raise Stop\n",
        "assert all(map(lambda a: solve(a) == a + 1, [1, 2]))\n",
    ),
    "the end of an iteration by calls": (
        "def solve():\n    raise StopIteration\n",
        "assert all(n == 5 for n in iter(solve, None))\n",
    ),
    "the end of a map, by an attribute": (
        "class S:\n    def __getattr__(self, name):\n        raise StopIteration\n"
        "    def __call__(self, a):\n        return self\nsolve = S()\n",
        "assert all(map(lambda a: solve(a).value == a, [1, 2]))\n",
    ),
    "a Counter's items": (
        "from collections import Counter\nclass C(Counter):\n"
        "    def __getitem__(self, key):\n        return 1\n"
        "    def __iter__(self):\n        return iter(())\ndef solve(text):\n    return C()\n",
        "from collections import Counter\nassert solve('ab') == Counter('ab')\n",
    ),
    "a Counter's missing items": (
        "from collections import Counter\nclass C(Counter):\n"
        "    def __missing__(self, key):\n        return 1\ndef solve(text):\n    return C()\n",
        "from collections import Counter\nassert Counter('ab') == solve('ab')\n",
    ),
    "a Counter that is subtracted": (
        "from collections import Counter\nclass C(Counter):\n"
        "    def __getitem__(self, key):\n        return 99\ndef solve(text):\n    return C()\n",
        "from collections import Counter\nassert not Counter('ab') - solve('ab')\n",
    ),
    "a deque's iterator": (
        "from collections import deque\nclass D(deque):\n"
        "    def __iter__(self):\n        return iter([1, 2])\n"
        "def solve(n):\n    return D([9, 9])\n",
        "from collections import deque\nassert solve(1) == deque([1, 2])\n",
    ),
}


def test_no_comparison_is_bypassed(pool_in_each_way, make_problem):
    jobs = [
        (make_problem(code=tests, entry_point="solve"), program)
        for program, tests in WAYS_AROUND.values()
    ]
    pairs = zip(WAYS_AROUND, pool_in_each_way.grade(jobs), strict=True)
    fine = (Outcome.FAILED, Outcome.EXCEPTION)
    assert [(name, grade) for name, grade in pairs if grade.outcome not in fine] == []


def test_a_stop_that_tests_wait_for(grade):
    program = "def solve():\n    raise StopIteration(5)\n"
    tests = (
        "try:\n    solve()\n    assert False\nexcept StopIteration as e:\n    assert e.value == 5\n"
    )
    assert grade(program, code=tests, entry_point="solve").outcome is Outcome.PASSED


def test_no_drawn_forger_passes(pool_in_each_way):
    # C++ has only two of each kind, because each costs a compilation.
    jobs = [*python_forgers(0, 120), *cpp_forgers(0, 22)]
    restarts = pool_in_each_way.counts["worker_restarts"]
    grades = zip(jobs, pool_in_each_way.grade(jobs), strict=True)
    bad = [(job, g) for job, g in grades if g.outcome is Outcome.PASSED or not g.is_verdict]
    assert bad == []
    assert pool_in_each_way.counts["worker_restarts"] == restarts
