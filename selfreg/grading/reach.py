"""Find, from their syntax alone, tests of functions that cannot work from another process.

Tests hold proxies of a program's objects (`proxies.py`), and share neither interpreter nor files
with it. A problem whose tests need these is refused with the reason, and no program is blamed.
"""

import ast
import builtins
import re
from collections.abc import Iterator
from typing import NamedTuple

_PATCHABLE = ("sys.stdin", "sys.stdout", "sys.stderr", "builtins.input", "builtins.print")
_FILES = "the program sees no file that tests write, and tests see none of its files"
# Features that are out of reach: the reason, and the names that show them. A name stands for
# everything below it.
REFUSED: dict[str, tuple[str, str]] = {
    "files": (
        _FILES,
        "open io.open tempfile shutil glob fileinput os.remove os.unlink os.mkdir os.makedirs "
        "os.rmdir os.removedirs os.rename os.replace os.listdir os.scandir os.walk os.stat os.open "
        "os.path.exists os.path.isfile os.path.isdir os.path.getsize os.chmod",
    ),
    "files by way of pathlib": (_FILES, ""),
    "the program's process": (
        "the program runs in a process of its own, and tests start none",
        "os.environ os.getenv os.putenv os.chdir os.getcwd os.getpid os.kill os.fork sys.argv "
        "sys.path sys.modules sys.settrace sys.setprofile signal resource importlib.reload "
        "subprocess multiprocessing",
    ),
    "the program's interpreter": (
        "what is set or watched in the tests' interpreter is not the program's",
        "decimal.getcontext decimal.setcontext decimal.localcontext warnings.catch_warnings "
        "warnings.simplefilter logging weakref gc tracemalloc sys.getrefcount "
        "locale.setlocale globals",
    ),
    "patches": (f"a patch reaches the program of {', '.join(_PATCHABLE)} only", ""),
    "functions as the interpreter sees them": (
        "a proxy of a function is no function to the interpreter",
        "inspect.getsource inspect.getsourcelines inspect.getfile inspect.getmembers "
        "inspect.isfunction inspect.ismethod inspect.isclass inspect.isgenerator "
        "inspect.isgeneratorfunction inspect.iscoroutine inspect.iscoroutinefunction "
        "inspect.isasyncgen inspect.getfullargspec asyncio.iscoroutinefunction "
        "types.GeneratorType types.FunctionType types.LambdaType types.MethodType "
        "types.CoroutineType types.CodeType dis typing.get_type_hints",
    ),
    "exact classes": ("`type(x) is C` does not hold for a proxy; isinstance(x, C) does", ""),
    "derived classes": ("a class of the tests cannot extend one of the program", ""),
    "fields of dataclasses": (
        "the functions of dataclasses look at the class behind the proxy",
        "dataclasses.asdict dataclasses.astuple dataclasses.fields dataclasses.replace "
        "dataclasses.is_dataclass",
    ),
    "threads": (
        "the tests' process starts none",
        "threading.Thread threading.Timer _thread concurrent.futures asyncio.to_thread",
    ),
    "pickling": ("a proxy cannot be pickled", "pickle shelve marshal copyreg"),
    "cancelling coroutines": (
        "a coroutine of the program runs from its start to its end",
        "asyncio.wait_for asyncio.timeout asyncio.timeout_at asyncio.wait",
    ),
}
_NAMES = {name: what for what, (_, names) in REFUSED.items() for name in names.split()}
# Tests without any of these words, and without imports in the set-up, need nothing out of reach.
_TELLING = re.compile(r"\b(?:import|open|globals|type|class)\b")
_PATH_METHODS = (
    *("write_text", "write_bytes", "read_text", "read_bytes", "touch", "mkdir", "unlink", "rmdir"),
    *("exists", "iterdir"),
)


class _Scope(NamedTuple):
    """The names that tests import, with the dotted names behind them, and those that they bind."""

    imported: dict[str, str]
    bound: set[str]


def out_of_reach(setup: str, code: str, entry_point: str | None = None) -> str:
    """Return why tests cannot work through proxies; empty if nothing shows that they cannot.

    Args:
      setup: Source that runs before the program.
      code: Source of the tests.
      entry_point: The name that the program defines for the tests, even if a library has that name.
    """
    if not ("import" in setup or _TELLING.search(code)):
        return ""  # the fast path, for most tests
    try:
        trees = [ast.parse(source) for source in (setup, code)]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""  # reported when the tests are compiled
    nodes = [list(ast.walk(tree)) for tree in trees]
    scope = _scope([node for part in nodes for node in part])
    scope.bound.add(entry_point or "")
    # Set-ups also import for the program, so that only the nodes of the tests count.
    for node in nodes[1]:
        for what, shown in _needs(node, scope):
            line = getattr(node, "lineno", 0)
            return f"its tests need {what} (line {line}: {shown}): {REFUSED[what][0]}"
    return ""


def _scope(nodes: list[ast.AST]) -> _Scope:
    imported: dict[str, str] = {}
    bound: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                imported |= {alias.asname: alias.name} if alias.asname else {top: top}
        elif isinstance(node, ast.ImportFrom):
            imported |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            bound.add(node.name)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            bound.add(node.id)
    return _Scope(imported, bound)


def _needs(node: ast.AST, scope: _Scope) -> Iterator[tuple[str, str]]:
    """Yield what a node of the tests needs that is out of reach, and the text that shows it."""
    name = _dotted(node, scope)
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        what = _NAMES.get(".".join(parts[:end]))
        if what and name:
            yield what, name
    if isinstance(node, ast.Attribute) and node.attr in _PATH_METHODS:
        if any(value.startswith("pathlib") for value in scope.imported.values()):
            yield "files by way of pathlib", node.attr
    elif isinstance(node, ast.ClassDef):
        for base in node.bases:
            if _is_of_program(base, scope):
                yield "derived classes", node.name
    elif isinstance(node, ast.Compare) and _is_type_of(node.left):
        for other in node.comparators:
            if _is_of_program(other, scope):
                yield "exact classes", ast.unparse(node)
    elif isinstance(node, ast.Call):
        target = _patched(node, scope)
        if target is not None and target not in _PATCHABLE:
            yield "patches", target or ast.unparse(node.func)


def _dotted(node: ast.AST, scope: _Scope) -> str:
    """Return the dotted name of an expression; empty if it has none or the tests bind it."""
    if isinstance(node, ast.Attribute):
        above = _dotted(node.value, scope)
        return f"{above}.{node.attr}" if above else ""
    if isinstance(node, ast.Name):
        # A name that is neither imported nor a builtin is the program's, even if it is glob or
        # signal.
        own = node.id in scope.bound or node.id not in vars(builtins)
        return scope.imported.get(node.id, "" if own else node.id)
    return ""


def _is_of_program(node: ast.expr, scope: _Scope) -> bool:
    """Whether an expression names something that neither the tests nor the builtins define."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name) and node.id not in (
        scope.bound | scope.imported.keys() | vars(builtins).keys()
    )


def _is_type_of(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "type"


def _patched(node: ast.Call, scope: _Scope) -> str | None:
    """Return the target of a unittest.mock patch; empty if unknown, None if there is no patch."""
    name = _dotted(node.func, scope)
    _, found, method = name.partition("mock.patch")
    if not found:
        return None
    first, *others = (*node.args[:2], None)
    if method == "" and isinstance(first, ast.Constant):
        return str(first.value)
    if method == ".object" and first and isinstance(others[0], ast.Constant):
        return f"{_dotted(first, scope)}.{others[0].value}"
    return ""
