"""Test that tests which cannot work from another process are refused, whatever the program."""

import pytest

from selfreg.grading.reach import REFUSED, out_of_reach
from selfreg.run.records import Outcome

# Each row of REFUSED has one or more examples.
NEED = {
    "files": [
        "with open('x.txt', 'w') as file:\n    file.write('1')\nassert f('x.txt') == 1\n",
        "import tempfile\nwith tempfile.NamedTemporaryFile() as file:\n    assert f(file.name)\n",
        "import os.path as p\nassert f() and p.exists('out.txt')\n",
        "from os import remove\nassert f()\nremove('x')\n",
    ],
    "files by way of pathlib": ["from pathlib import Path\nPath('x').write_text('1')\nf('x')\n"],
    "the program's process": [
        "import os\nos.environ['X'] = '1'\nassert f() == '1'\n",
        "import sys\nsys.argv = ['x', '1']\nassert f() == 1\n",
        "import subprocess\nassert subprocess.run([f()])\n",
    ],
    "the program's interpreter": [
        "import decimal\ndecimal.getcontext().prec = 3\nassert f() == 1\n",
        "import warnings\nwith warnings.catch_warnings():\n    f()\n",
        "assert globals()['f']() == 1\n",
    ],
    "patches": [
        "from unittest.mock import patch\nwith patch('time.sleep'):\n    f()\n",
        "from unittest import mock\n@mock.patch('builtins.open', mock.mock_open(read_data='1'))\n"
        "def t(o):\n    assert f() == 1\nt()\n",
        "import os, unittest.mock\nwith unittest.mock.patch.object(os, 'getcwd'):\n    f()\n",
        "from unittest.mock import patch\nwith patch.dict('os.environ', X='1'):\n    f()\n",
    ],
    "functions as the interpreter sees them": [
        "import inspect\nassert 'for' not in inspect.getsource(f)\n",
        "import types\nassert isinstance(f(), types.GeneratorType)\n",
    ],
    "exact classes": ["assert type(f()) is Stack\n", "assert type(f()) == Stack\n"],
    "derived classes": ["class Mine(Base):\n    pass\nassert f(Mine())\n"],
    "fields of dataclasses": ["from dataclasses import asdict\nassert asdict(f()) == {}\n"],
    "threads": ["import threading\nt = threading.Thread(target=f)\nt.start()\nt.join()\n"],
    "pickling": ["import pickle\nassert pickle.loads(pickle.dumps(f())) == f()\n"],
    "cancelling coroutines": ["import asyncio\nasyncio.run(asyncio.wait_for(f(), 1))\n"],
}
SERVED = [
    "assert glob('a*', 'ab') and signal([1]) == [1] and resource.left == 2\n",
    "assert pickle('cucumber') == 'gherkin' and open(1) == 2\n",
    "import logging, threading, tempfile\nassert f()\n",
    "def open(x):\n    return x\nassert f(open(1)) == 1\n",
    "import os\nassert f(os.path.join('a', 'b')) == 'a/b'\n",
    "assert type(f()) is dict and type(f()) == type({})\n",
    "import sys\nassert f() <= sys.maxsize\n",
    "from unittest.mock import patch\nwith patch('builtins.input', return_value='1'):\n    f()\n",
    "import io, sys\nfrom unittest import mock\n"
    "with mock.patch.object(sys, 'stdin', io.StringIO()):\n    f()\n",
    "class Node:\n    pass\nclass Leaf(Node):\n    pass\nassert f(Leaf())\n",
    "fs = f()\nfs.mkdir('/a')\nassert fs.exists('/a')\n",
    "import unittest\nclass T(unittest.TestCase):\n    def test(self):\n        f()\n",
]


def test_every_kind_has_a_row():
    assert NEED.keys() == REFUSED.keys()


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_out_of_reach_is_refused(pool, make_problem, what):
    for code in NEED[what]:
        problem = make_problem(code=code, entry_point="f")
        why = pool.validate([problem])[problem.id]
        assert what in why, (code, why)
        assert REFUSED[what][0] in why
        assert pool.grade([(problem, "def f(*_): ...\n")])[0].outcome is Outcome.TEST_ERROR


def test_a_pool_that_did_not_validate_refuses_too(grade):
    verdict = grade("def f(): return 1\n", code=NEED["files"][0], entry_point="f")
    assert verdict.outcome is Outcome.TEST_ERROR
    assert "its tests need files (line 1: open)" in verdict.detail


@pytest.mark.parametrize("code", SERVED)
def test_what_can_be_served_is_not_refused(code):
    assert out_of_reach("import os, tempfile\n", code, "open" if "open(1)" in code else "f") == ""
