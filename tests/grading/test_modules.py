"""Test the modules that a pool allows beside the standard library."""

import pytest

from selfreg.grading import GraderPool
from selfreg.grading.ladder import LADDER
from selfreg.run.records import Outcome, Problem, StdioCase
from selfreg.run.records import Tests as ProblemTests

ECHO = Problem("echo", "", ProblemTests(stdio=(StdioCase("5", "5"),)))
NUMPY = "import numpy as np\nprint(int(np.dot(np.ones(5), np.ones(5))))\n"


@pytest.mark.parametrize("isolation", LADDER)
def test_numpy_sortedcontainers_and_pytest_are_let_in(isolation):
    function = Problem(
        "f",
        "",
        ProblemTests(
            code="import numpy as np\nimport pytest\nassert np.allclose(f([3, 1, 2]), [1, 2, 3])\n"
            "with pytest.raises(ValueError):\n    f(None)\n"
        ),
        entry_point="f",
    )
    sorts = (
        "from sortedcontainers import SortedList\nimport numpy as np\n"
        "def f(x):\n    if x is None:\n        raise ValueError\n"
        "    return [float(v) for v in np.array(SortedList(x)) + 0.0]\n"
    )
    writes = (
        "import numpy, os\ntry:\n    open(numpy.__file__, 'a')\nexcept OSError:\n    print(5)\n"
    )
    hidden = "import numpy\ntry:\n    import jax\nexcept ImportError:\n    print(5)\n"
    jobs = [(ECHO, NUMPY), (ECHO, writes), (ECHO, hidden), (function, sorts)]
    jobs.append((function, sorts.replace("+ 0.0", "+ 1.0")))
    with GraderPool(
        1, isolation=isolation, modules=("numpy", "sortedcontainers", "pytest")
    ) as pool:
        grades = pool.grade(jobs)
    outcomes = [grade.outcome for grade in grades]
    assert outcomes == [Outcome.PASSED] * 4 + [Outcome.FAILED], grades


def test_without_them_they_are_not_there(pool):
    assert pool.grade([(ECHO, NUMPY)])[0].outcome is Outcome.EXCEPTION


def test_a_module_that_is_not_installed_is_named():
    with pytest.raises(ValueError, match="'no_such_module' is not installed"):
        GraderPool(1, modules=("no_such_module",))
