"""Find, from a program's syntax alone, whether it computes its answers or has them built in."""

import ast
import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from selfreg.run.records import Problem, Tests

# Shorter literals coincide by chance: a test and an honest program may both contain [] or "yes".
_LEAST_TEXT, _LEAST_ITEMS, _LEAST_NUMBER, _LEAST_CASES = 4, 2, 100, 2

_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)
_COMPUTING = (ast.For, ast.While, ast.comprehension, ast.AugAssign, ast.NamedExpr)
_CONVERSIONS = {"str", "repr", "tuple", "list", "int", "float", "hash"}
_INPUT = {"input", "sys.stdin", "open", "io.open", "os.read", "fileinput"}


class _Entry(NamedTuple):
    """The function that the tests call: its parameters, its statements and those of its module."""

    parameters: set[str]
    body: Sequence[ast.AST]
    module: Sequence[ast.stmt]


def is_hard_coded(problem: Problem, tree: ast.Module) -> bool:
    """Whether the entry point only compares its arguments with literals, or looks them up."""
    entry = _find_entry(problem, tree)
    if entry is None or not entry.parameters:
        return False
    own = list(_walk(entry.body))
    if any(isinstance(node, _COMPUTING) for node in own):
        return False
    known = _known_names(entry)
    values = list(_answers(own))
    looked_up = [value for value in values if _is_lookup(value, entry.parameters, known)]
    tests = [node.test for node in own if isinstance(node, (ast.If, ast.IfExp))]
    compared = [_compared(test, entry.parameters, known) for test in tests]
    matches = [node for node in own if isinstance(node, ast.Match)]
    compared += [_matched(node, entry.parameters) for node in matches]
    # Honest programs compare with [] to treat an edge case.
    telling = any(any(literals or ()) for literals in compared)
    return (
        bool(looked_up or telling)
        and all(value in looked_up or _is_known(value, known) for value in values)
        and None not in compared
    )


def is_constant(problem: Problem, tree: ast.Module, words: set[str]) -> bool:
    """Whether every answer is the same literal, or a script never looks at its input.

    Args:
      problem: The problem that the program is for.
      tree: The program.
      words: The dotted names that the program uses.
    """
    if problem.tests.stdio:
        given = any(case.stdin.strip() for case in problem.tests.stdio)
        named = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        return given and not (words | named) & _INPUT
    entry = _find_entry(problem, tree)
    if entry is None or not entry.parameters:
        return False
    own = list(_walk(entry.body))
    if any(isinstance(node, (ast.Raise, ast.Yield, ast.YieldFrom, ast.Assert)) for node in own):
        return False
    values = [node.value for node in own if isinstance(node, ast.Return) and node.value]
    if not values:  # the function may still change an argument in place
        return not any(_name_of(node) in entry.parameters for node in own)
    # A function that does not end with a return has two answers: this one and None.
    return (
        isinstance(entry.body[-1], ast.Return)
        and all(_is_literal(value) for value in values)
        and len({ast.dump(value) for value in values}) == 1
    )


def knows_tests(problem: Problem, tree: ast.Module) -> bool:
    """Whether a program holds the literals, arguments and results, of most cases of its tests."""
    held = {_key(node) for node in ast.walk(tree) if _is_literal(node)}
    cases = _telling_cases(problem.tests)
    return sum(case <= held for case in cases) >= max(_LEAST_CASES, len(cases) // 2 + 1)


@functools.lru_cache(maxsize=4096)
def _telling_cases(tests: Tests) -> tuple[frozenset[str], ...]:
    """Return the outermost literals of each case, without the cases that have only short ones."""
    if tests.stdio:
        texts = {case.stdin.strip() for case in tests.stdio}
        return tuple(frozenset({repr(text)}) for text in texts if len(text) >= _LEAST_TEXT)
    try:
        tree = ast.parse(tests.code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ()
    asserts = {ast.dump(node.test): node for node in ast.walk(tree) if isinstance(node, ast.Assert)}
    cases = [list(_outermost_literals(node.test)) for node in asserts.values()]
    return tuple(frozenset(map(_key, case)) for case in cases if any(map(_is_telling, case)))


def _outermost_literals(node: ast.AST) -> Iterator[ast.AST]:
    if _is_literal(node):
        yield node
    else:
        for child in ast.iter_child_nodes(node):
            yield from _outermost_literals(child)


def _is_telling(node: ast.AST) -> bool:
    value = ast.literal_eval(node)
    if isinstance(value, (int, float, complex)):
        return abs(value) >= _LEAST_NUMBER
    if isinstance(value, (str, bytes)):
        return len(value) >= _LEAST_TEXT
    return isinstance(value, (list, tuple, dict, set)) and len(value) >= _LEAST_ITEMS


def _key(node: ast.AST) -> str:
    value = ast.literal_eval(node)
    return repr(value.strip() if isinstance(value, str) else value)


# --- The entry point ------------------------------------------------------------------------------


def _find_entry(problem: Problem, tree: ast.Module) -> _Entry | None:
    """Return the last definition of the entry point, whether by def or by lambda."""
    found: _Entry | None = None
    for node in ast.walk(tree):
        function: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            name, function, body = node.name, node, list[ast.AST](node.body)
        elif (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and isinstance(node.value, ast.Lambda)
        ):
            name, function = node.targets[0].id, node.value
            body = [ast.Return(node.value.body)]
        else:
            continue
        if name == problem.entry_point:
            args = function.args
            every = [*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg]
            found = _Entry({arg.arg for arg in every if arg} - {"self"}, body, tree.body)
    return found


def _walk(body: Sequence[ast.AST]) -> Iterator[ast.AST]:
    """Yield all nodes of a function, without those of the functions within it."""
    todo = list(body)
    while todo:
        node = todo.pop()
        yield node
        if not isinstance(node, _SCOPES):
            todo += ast.iter_child_nodes(node)


def _known_names(entry: _Entry) -> set[str]:
    """Return the names that are only ever bound to literals, and never filled in later."""
    known, other = set(), set(entry.parameters)
    for node in (*_walk(entry.body), *_walk(entry.module)):
        if isinstance(node, ast.Assign):
            names = {target.id for target in node.targets if isinstance(target, ast.Name)}
            filled = {_name_of(t.value) for t in node.targets if isinstance(t, ast.Subscript)}
            if _is_literal(node.value) and not _is_empty(node.value):
                known |= names
                names = set()
            other |= names | filled
    return known - other


def _answers(own: Sequence[ast.AST]) -> Iterator[ast.expr]:
    """Yield the values that a function may return, directly or through a name."""
    given: dict[str, list[ast.expr]] = {}
    for node in own:
        if isinstance(node, ast.Assign):
            given.setdefault(_name_of(node.targets[0]), []).append(node.value)
    given.pop(".", None)
    for node in own:
        if isinstance(node, ast.Return) and node.value:
            for value in given.get(_name_of(node.value), [node.value]):
                yield from _branches(value)


def _name_of(node: ast.AST) -> str:
    """Return the name that a node is, or ".", which is never a name."""
    return node.id if isinstance(node, ast.Name) else "."


def _branches(value: ast.expr) -> Iterator[ast.expr]:
    if isinstance(value, ast.IfExp):
        yield from _branches(value.body)
        yield from _branches(value.orelse)
    else:
        yield value


# --- Literals, and comparisons with them ----------------------------------------------------------


def _is_literal(value: ast.AST) -> bool:
    try:
        ast.literal_eval(value)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return False
    return True


def _is_empty(literal: ast.expr) -> bool:
    value = ast.literal_eval(literal)
    return isinstance(value, (list, dict, set)) and not value


def _is_known(value: ast.expr, known: set[str]) -> bool:
    return _is_literal(value) or (isinstance(value, ast.Name) and value.id in known)


def _is_argument(value: ast.expr, parameters: set[str]) -> bool:
    """Whether a value is made of arguments alone: x, (x, y), str(x), tuple(x), f"{x},{y}"."""
    if isinstance(value, (ast.Tuple, ast.List)):
        return bool(value.elts) and all(_is_argument(part, parameters) for part in value.elts)
    if isinstance(value, ast.JoinedStr):
        parts = [part.value for part in value.values if isinstance(part, ast.FormattedValue)]
        return bool(parts) and all(_is_argument(part, parameters) for part in parts)
    if isinstance(value, ast.Call) and _name_of(value.func) in _CONVERSIONS:
        return bool(value.args) and all(_is_argument(part, parameters) for part in value.args)
    return isinstance(value, ast.Name) and value.id in parameters


def _is_lookup(value: ast.expr, parameters: set[str], known: set[str]) -> bool:
    """Whether a value is TABLE[arguments] or TABLE.get(arguments, literal)."""
    if isinstance(value, ast.Subscript):
        table, key = value.value, value.slice
    elif (
        isinstance(value, ast.Call)
        and isinstance(value.func, ast.Attribute)
        and value.func.attr == "get"
        and value.args
    ):
        table, key = value.func.value, value.args[0]
    else:
        return False
    return _is_known(table, known) and _is_argument(key, parameters)


def _compared(test: ast.expr, parameters: set[str], known: set[str]) -> list[bool] | None:
    """Return, for each literal that arguments are compared with, whether it is non-empty (truthy).

    The result is None if the test does anything else.
    """
    if isinstance(test, ast.BoolOp):
        parts = [_compared(part, parameters, known) for part in test.values]
        return None if None in parts else [flag for part in parts for flag in part or ()]
    if not isinstance(test, ast.Compare) or len(test.ops) > 1:
        return None
    left, (right,), (operator,) = test.left, test.comparators, test.ops
    if _is_argument(right, parameters) and not isinstance(operator, ast.In):
        left, right = right, left
    if not isinstance(operator, (ast.Eq, ast.In, ast.Is)) or not _is_argument(left, parameters):
        return None
    if isinstance(right, ast.Name) and right.id in known:
        return [True]
    literal = ast.literal_eval(right) if _is_literal(right) else ...
    is_search = isinstance(operator, ast.In) and isinstance(literal, str)
    return None if literal is ... or is_search else [bool(literal)]


def _matched(match: ast.Match, parameters: set[str]) -> list[bool] | None:
    """Do the same for a match statement, whose patterns must be literals or a final `_`."""
    if not _is_argument(match.subject, parameters):
        return None
    plain = (ast.MatchValue, ast.MatchSingleton, ast.MatchSequence, ast.MatchOr)
    found = []
    for case in match.cases:
        for node in ast.walk(case.pattern):
            if isinstance(node, ast.MatchAs) and node.pattern is None and node.name is None:
                continue
            if isinstance(node, ast.pattern) and not isinstance(node, plain):
                return None
        found.append(not isinstance(case.pattern, ast.MatchAs))
    return found
