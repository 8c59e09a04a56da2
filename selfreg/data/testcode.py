"""Make test code for function problems from cases, or from the tests that a data set provides.

Tests run in the judge, which has only the standard library. This module has stand-ins for the parts
of numpy and pytest that tests use. A test that uses another part of pytest is refused when its row
is loaded.
"""

import ast
import re
import warnings
from collections.abc import Sequence

from selfreg.data.cases import Call

# JSON stores tuples as lists, and dictionary keys as texts. Results are converted to that form
# before they are compared.
_PLAIN = """\
def _selfreg_key(key):
    if key is None or isinstance(key, (bool, int, float)):
        return {None: "null", True: "true", False: "false"}[key] if key is None or isinstance(
            key, bool) else str(key)
    return key
def _selfreg_plain(value):
    if isinstance(value, (list, tuple)):
        return [_selfreg_plain(item) for item in value]
    if isinstance(value, dict):
        return {_selfreg_key(key): _selfreg_plain(item) for key, item in value.items()}
    return value
"""

# Finds the answer: a method of class Solution, or a function.
_TARGET = """\
try:
    _selfreg_target = Solution().{name}
except (NameError, AttributeError):
    _selfreg_target = {name}
"""

# The parts of numpy that evalplus' tests use.
_NUMPY = """\
class np:
    class ndarray: pass
    float32 = float64 = float
    def allclose(out, exp, rtol=1e-05, atol=1e-08):
        if isinstance(exp, (list, tuple)):
            return (isinstance(out, (list, tuple)) and len(out) == len(exp)
                    and all(np.allclose(a, b, rtol, atol) for a, b in zip(out, exp)))
        if not isinstance(out, (int, float, complex)):
            return False
        return out == exp or abs(out - exp) <= atol + rtol * abs(exp)
"""

_PYTEST = """\
class _SelfregRaises:
    def __init__(self, kinds, match):
        self.kinds, self.match, self.value = kinds, match, None
    def __enter__(self):
        return self
    def __exit__(self, kind, error, trace):
        if error is None:
            raise AssertionError(f"did not raise {self.kinds}")
        self.value, self.type = error, kind
        if not isinstance(error, self.kinds):
            return False
        if self.match is not None:
            assert _selfreg_re.search(self.match, str(error)), f"{error!r} does not match"
        return True
class _SelfregApprox:
    def __init__(self, expected, rel=None, abs=None, nan_ok=False):
        self.expected, self.rel, self.abs, self.nan_ok = expected, rel, abs, nan_ok
    def __eq__(self, other):
        return self._same(other, self.expected)
    def __ne__(self, other):
        return not self == other
    def __repr__(self):
        return f"approx({self.expected!r})"
    def _same(self, value, wanted):
        if isinstance(wanted, dict):
            return (isinstance(value, dict) and value.keys() == wanted.keys()
                    and all(self._same(value[key], wanted[key]) for key in wanted))
        if isinstance(wanted, (list, tuple)):
            return (isinstance(value, type(wanted)) and len(value) == len(wanted)
                    and all(map(self._same, value, wanted)))
        if not isinstance(wanted, (int, float, complex)) or isinstance(wanted, bool):
            return value == wanted
        if not isinstance(value, (int, float, complex)):
            return False
        if value == wanted:
            return True
        if value != value or wanted != wanted:
            return self.nan_ok and value != value and wanted != wanted
        if abs(wanted) == float("inf"):
            return False
        absolute = 1e-12 if self.abs is None else self.abs
        relative = self.rel if self.rel is not None else 1e-6 if self.abs is None else 0.0
        return abs(value - wanted) <= max(absolute, relative * abs(wanted))
class _SelfregMark:
    def parametrize(self, names, values, ids=None):
        names = [n.strip() for n in names.split(",")] if isinstance(names, str) else list(names)
        rows = [dict(zip(names, row if len(names) > 1 else (row,), strict=True)) for row in values]
        def mark(test):
            above = getattr(test, "_selfreg_rows", [{}])
            test._selfreg_rows = [old | new for old in above for new in rows]
            return test
        return mark
class pytest:
    mark, approx = _SelfregMark(), _SelfregApprox
    def raises(kinds, *, match=None):
        return _SelfregRaises(kinds, match)
    def fixture(make):
        make._selfreg_fixture = True
        return make
    def fail(reason=""):
        raise AssertionError(reason)
def _selfreg_run(test, owner=None):
    names = test.__code__.co_varnames[: test.__code__.co_argcount]
    for row in getattr(test, "_selfreg_rows", [{}]):
        given = {}
        for name in names[owner is not None:]:
            given[name] = row[name] if name in row else _selfreg_fixtures(name)
        test(*(() if owner is None else (owner,)), **given)
def _selfreg_fixtures(name):
    made = globals_of_tests[name]()
    return next(made) if hasattr(made, "__next__") else made
"""
_PYTEST_HAS = ("raises", "approx", "fixture", "fail", "mark.parametrize")


def call_tests(name: str, calls: Sequence[Call], *, in_class: bool, unwraps: bool) -> str:
    """Write asserts that the calls give the expected results.

    Args:
      name: The function, or the method of class Solution.
      calls: The calls to test.
      in_class: Whether the answer must be a method; if not, it may be a method or a function.
      unwraps: Whether an answer may also return the only element of an expected list of one (APPS).
    """
    target = f"Solution().{name}" if in_class else "_selfreg_target"
    lines = [_PLAIN, "" if in_class else _TARGET.format(name=name)]
    for arguments, result in calls:
        call = f"_selfreg_plain({target}({', '.join(map(repr, arguments))}))"
        single = unwraps and isinstance(result, list) and len(result) == 1
        right = f"in ({result!r}, {result[0]!r})" if single else f"== {result!r}"
        lines.append(f"assert {call} {right}\n")
    return _names_of_floats("".join(lines))


def reference_tests(
    name: str, reference: str, inputs: Sequence[Sequence[object]], tolerance: float
) -> str:
    """Write evalplus' tests: the program must agree with the reference solution on every input.

    Args:
      name: The function.
      reference: Source that defines the function; it runs with the tests, not with the program.
      inputs: Lists of arguments.
      tolerance: evalplus' `atol`. If it is 0, expected floats have a tolerance of 1e-6.
    """
    # HumanEval/32 has many right answers: a root is right if the polynomial is near 0 there.
    agree = f"_selfreg_agree(got, want, {tolerance!r})"
    if name == "find_zero":
        agree = "abs(sum(c * got**i for i, c in enumerate(given[0]))) <= 1e-4"
    return _names_of_floats(f"""\
import copy as _selfreg_copy
{_NUMPY}
def _selfreg_is_floats(value):
    many = isinstance(value, (list, tuple))
    return all(isinstance(v, float) for v in value) if many else isinstance(value, float)
def _selfreg_agree(got, want, atol):
    if atol == 0 and _selfreg_is_floats(want):
        atol = 1e-6
    return got == want or (atol != 0 and np.allclose(got, want, 1e-7, atol))
_selfreg_space = {{}}
exec({reference!r}, _selfreg_space)
for given in {list(inputs)!r}:
    want = _selfreg_space[{name!r}](*_selfreg_copy.deepcopy(given))
    got = {name}(*_selfreg_copy.deepcopy(given))
    assert {agree}, "an input of evalplus"
""")


def without_numpy(code: str) -> str:
    """Replace the import of numpy in evalplus' tests by the stand-in."""
    found, count = re.subn(r"^import numpy as np[ \t]*$", _NUMPY, code, flags=re.MULTILINE)
    return found if count else code


def unittest_tests(code: str) -> str:
    """Add a line to BigCodeBench's tests that runs its class TestCases up to the first failure."""
    return (
        f"{code.rstrip()}\n\nunittest.defaultTestLoader.loadTestsFromTestCase(TestCases).debug()\n"
    )


def pytest_tests(code: str) -> tuple[str, list[str]]:
    """Rewrite KodCode's pytest tests to run one after another without pytest.

    Returns:
      The test code, and the names that the tests import from the solution.

    Raises:
      ValueError: The tests do not parse, or use a feature that the stand-in for pytest lacks.
    """
    tree = parse(code, "test_code")
    wanted: list[str] = []
    body: list[ast.stmt] = []
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module == "solution":
            wanted += [alias.name for alias in node.names]
            body += [
                ast.parse(f"{alias.asname} = {alias.name}").body[0]
                for alias in node.names
                if alias.asname and alias.asname != alias.name
            ]
        elif isinstance(node, ast.Import) and [a.name for a in node.names] == ["pytest"]:
            if node.names[0].asname:
                raise ValueError("'test_code' imports pytest by another name")
        else:
            body.append(node)
    if "*" in wanted:
        wanted.remove("*")
    tree.body = body
    _refuse_lacking(tree)
    tests = _run_lines(tree)
    if not tests:
        raise ValueError("'test_code' has no test function")
    fixtures = [
        node.name
        for node in body
        if isinstance(node, ast.FunctionDef)
        and any(ast.unparse(d).startswith("pytest.fixture") for d in node.decorator_list)
    ]
    table = ", ".join(f"{name!r}: {name}" for name in fixtures)
    parts = ["import re as _selfreg_re", _PYTEST, ast.unparse(tree)]
    return "\n".join([*parts, f"globals_of_tests = {{{table}}}", *tests, ""]), wanted


def _run_lines(tree: ast.Module) -> list[str]:
    """Return the lines that run every test, in pytest's order."""
    lines = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test"):
            lines.append(f"_selfreg_run({node.name})")
        elif isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            if node.bases:
                raise ValueError(f"'test_code' extends {ast.unparse(node.bases[0])}")
            methods = [part.name for part in node.body if isinstance(part, ast.FunctionDef)]
            for name in methods:
                if name.startswith("test"):
                    lines.append(f"_selfreg_owner = {node.name}()")
                    if "setup_method" in methods:
                        lines.append("_selfreg_owner.setup_method()")
                    lines.append(f"_selfreg_run({node.name}.{name}, _selfreg_owner)")
    return lines


def _refuse_lacking(tree: ast.Module) -> None:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            name = ast.unparse(node)
            if name.startswith("pytest.") and name != "pytest.mark":
                used = name.removeprefix("pytest.")
                if not any(used == has or used.startswith(f"{has}.") for has in _PYTEST_HAS):
                    raise ValueError(f"'test_code' uses {name}, which has no stand-in")
        elif isinstance(node, ast.FunctionDef) and node.name.startswith("test"):
            own = {part.name for part in tree.body if isinstance(part, ast.FunctionDef)}
            marks = " ".join(ast.unparse(d) for d in node.decorator_list)
            for name in (arg.arg for arg in node.args.args):
                if name not in own | {"self"} and not re.search(rf"\b{name}\b", marks):
                    raise ValueError(f"'test_code' uses the fixture {name!r}, which is not here")


def called_name(asserts: str, defined: set[str] | None = None, key: str = "test") -> str:
    """Return the first function of the program that the asserts call.

    It is one of `defined`. If `defined` is None, it is the first function that is not a builtin and
    that the asserts neither import nor define.

    Raises:
      ValueError: There is no such function, or the asserts do not parse.
    """
    tree = parse(asserts, key)
    imported = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }
    own = {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            name = node.func.id
            if (
                name in defined
                if defined is not None
                else (name not in vars(__import__("builtins")) and name not in imported | own)
            ):
                return name
    where = "that 'code' defines" if defined is not None else "of the program"
    raise ValueError(f"{key!r} must call a function {where}")


def parse(source: str, key: str) -> ast.Module:
    """Parse Python source from a row.

    Raises:
      ValueError: The source is not valid Python.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # many rows write "\\d" instead of r"\\d", which warns
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{key!r} must be Python: {error}") from error


def _names_of_floats(code: str) -> str:
    """Import inf and nan at the top of code that uses them, because `repr` writes floats so."""
    return f"from math import inf, nan\n{code}" if re.search(r"\b(inf|nan)\b", code) else code
