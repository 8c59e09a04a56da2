"""Tests of functions that cannot work from another process: found in their syntax, nothing is run.

Tests hold proxies of a program's objects (`proxies.py`), and share no interpreter and no files with
it. A problem whose tests need those is refused with the reason, and no program is charged with it.
"""

import ast
import builtins
import re
from collections.abc import Iterator
from typing import NamedTuple

_PATCHABLE = ("sys.stdin", "sys.stdout", "sys.stderr", "builtins.input", "builtins.print")
_FILES = "the program sees no file that tests write, and tests see none of its files"
# What is out of reach: why, and the names that show it. A name stands for all below it.
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
# Without one of these words, and without imports in the set-up, tests need nothing of it.
_TELLING = re.compile(r"\b(?:import|open|globals|type|class)\b")
_PATH_METHODS = (
    *("write_text", "write_bytes", "read_text", "read_bytes", "touch", "mkdir", "unlink", "rmdir"),
    *("exists", "iterdir"),
)


class _Scope(NamedTuple):
    """What names stand for: what tests import, dotted, and what they bind themselves."""

    imported: dict[str, str]
    bound: set[str]


def out_of_reach(setup: str, code: str, entry_point: str | None = None) -> str:
    """Why tests cannot work against proxies; empty when nothing shows that they cannot.

    Args:
      setup: Source that runs before the program.
      code: Source of the tests.
      entry_point: What the program defines for them, whatever else has that name.
    """
    if not ("import" in setup or _TELLING.search(code)):
        return ""  # most tests, in no time
    try:
        trees = [ast.parse(source) for source in (setup, code)]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""  # it is told where they are compiled
    nodes = [list(ast.walk(tree)) for tree in trees]
    scope = _scope([node for part in nodes for node in part])
    scope.bound.add(entry_point or "")
    # Set-ups import for the program, too: only what the tests do counts.
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
    """What a node of tests needs that is out of reach, and how it shows."""
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
    """The dotted name of an expression; empty where it is none, or one that the tests bind."""
    if isinstance(node, ast.Attribute):
        above = _dotted(node.value, scope)
        return f"{above}.{node.attr}" if above else ""
    if isinstance(node, ast.Name):
        # Neither imported nor a builtin: it is the program's, and may be called glob or signal.
        own = node.id in scope.bound or node.id not in vars(builtins)
        return scope.imported.get(node.id, "" if own else node.id)
    return ""


def _is_of_program(node: ast.expr, scope: _Scope) -> bool:
    """Whether an expression names what neither the tests nor the builtins define."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name) and node.id not in (
        scope.bound | scope.imported.keys() | vars(builtins).keys()
    )


def _is_type_of(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "type"


def _patched(node: ast.Call, scope: _Scope) -> str | None:
    """What a call of unittest.mock patches; empty where it does not say, None where it is none."""
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
