"""Generate the procedural family: function problems composed of operations, with no download.

A problem asks for `solve(x)`, where x is a list of integers or a string. The solution applies one
to five operations and returns a terminal, such as the sum. The tests are eight random inputs with
the outputs of the canonical program.

    train      1-3 operations, English    hard  4-5 operations, English
    main       1-3 operations, English    ood   1-3 operations, Spanish
    cpp_train  as train, in C++           cpp   1-3 operations, English, in C++

A composition is a program without its constants. A hash assigns each composition either to train
and cpp_train or to the four held-out splits. So a policy never meets a composition of its training
set in a held-out split.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import combinations, islice
from typing import Any, NamedTuple

import numpy as np

from selfreg.data.procedural_ops import CPP_HEADER, CPP_TYPES, OPS, TERMINALS, Op, Terminal
from selfreg.data.procedural_phrases import ENGLISH, SPANISH
from selfreg.run.records import Language, Problem, Tests

TESTS_PER_PROBLEM = 8
HELD_OUT_FRACTION = 0.25
# Vowels have at least twice their share of the alphabet, and few letters make repetitions likely.
_LETTERS = "aaeiioubcdlmnrstAEOBDNST"

_OPS = {kind: {op.name: op for op in ops} for kind, ops in OPS.items()}
_TERMINALS = {kind: {end.name: end for end in ends} for kind, ends in TERMINALS.items()}


class Split(NamedTuple):
    """The kind of problems in a split, and how many of them `load_problems` makes."""

    lengths: tuple[int, ...]
    spanish: bool = False
    language: Language = Language.PYTHON
    default_count: int = 256
    held_out: bool = True


SPLITS = {
    "train": Split((1, 2, 3), default_count=2048, held_out=False),
    "main": Split((1, 2, 3), default_count=512),
    "hard": Split((4, 5)),
    "ood": Split((1, 2, 3), spanish=True),
    "cpp": Split((1, 2, 3), language=Language.CPP),
    # New splits go last, because a split's index seeds its problems.
    "cpp_train": Split((1, 2, 3), language=Language.CPP, held_out=False),
}


@dataclass(frozen=True, slots=True)
class Program:
    """A composition with its constants.

    Attributes:
      kind: "list" or "string", the type of `x`.
      steps: (name of the operation, its constant or 0 if it has none), first to last.
      terminal: Name of the terminal.
    """

    kind: str
    steps: tuple[tuple[str, int], ...]
    terminal: str

    @property
    def ops(self) -> Iterator[tuple[Op, int]]:
        """The operations with their constants."""
        return ((_OPS[self.kind][name], k) for name, k in self.steps)

    @property
    def end(self) -> Terminal:
        """The terminal."""
        return _TERMINALS[self.kind][self.terminal]


class Case(NamedTuple):
    """An input, and the result of the canonical program for it."""

    x: Any
    expected: Any


@cache
def generate(split: str, count: int, seed: int) -> tuple[Problem, ...]:
    """Make the first `count` problems of a split; a pure function of its arguments.

    Args:
      split: A key of SPLITS.
      count: The number of problems. No two of them have the same program.
      seed: Any non-negative integer. Another seed gives other problems of the same split.

    Returns:
      `count` problems with ids "procedural/<split>/<seed>/<index>".

    Raises:
      ValueError: The split is unknown, or has fewer programs than `count`.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown procedural split {split!r}; allowed: {', '.join(SPLITS)}")
    rng = np.random.default_rng([seed, list(SPLITS).index(split)])
    problems: dict[Program, Problem] = {}
    repeats = 0
    while len(problems) < count:
        program, cases = draw(rng, SPLITS[split].lengths, SPLITS[split].held_out)
        if program not in problems:
            name = f"procedural/{split}/{seed}/{len(problems)}"
            problems[program] = make_problem(rng, program, cases, split, name)
            repeats = 0
        elif (repeats := repeats + 1) == 1000:
            raise ValueError(f"{split} has only about {len(problems)} programs, not {count}")
    return tuple(problems.values())


def make_problem(
    rng: np.random.Generator, program: Program, cases: tuple[Case, ...], split: str, name: str
) -> Problem:
    """Make a problem from a program; `split` sets its natural and its programming language."""
    style = SPLITS[split]
    if style.language is Language.CPP:
        tests = Tests(setup=CPP_HEADER, code=_cpp_tests(cases))
    else:
        tests = Tests(code="".join(f"assert solve({x!r}) == {y!r}\n" for x, y in cases))
    return Problem(
        id=name,
        spec=describe(rng, program, style.spanish),
        tests=tests,
        language=style.language,
        entry_point="solve",
        starter=signature(program, style.language),
        solution=write(program, style.language),
        split=split if style.held_out else "train",
        category=f"{len(program.steps)} ops",
    )


# --- Programs -------------------------------------------------------------------------------------


def composition(program: Program) -> str:
    """Return the program without its constants, for example "even square > sum".

    It leaves out the kind, because reversing a list and reversing a string are the same program
    text.
    """
    return f"{' '.join(name for name, _ in program.steps)} > {program.terminal}"


def is_held_out(program: Program) -> bool:
    """Return whether the composition belongs to the held-out splits: main, hard, ood and cpp."""
    digest = hashlib.sha256(composition(program).encode()).digest()
    return digest[0] < 256 * HELD_OUT_FRACTION


def signature(program: Program, language: Language) -> str:
    """Return the first line of the canonical program."""
    if language is Language.PYTHON:
        return "def solve(x):\n"
    return f"{program.end.cpp_type} solve({CPP_TYPES[program.kind]} x) {{\n"


def write(program: Program, language: Language, result: str = "return {}", name: str = "") -> str:
    """Write the program as source text, with one statement for each operation.

    Args:
      program: The program to write.
      language: Python, or C++ that uses CPP_HEADER.
      result: The last statement; `{}` stands for the terminal's expression.
      name: A name for the function; "" for `solve`.
    """
    head = signature(program, language)
    head = head.replace(" solve(", f" {name}(") if name else head
    if language is Language.PYTHON:
        lines = [f"x = {op.python.format(k=k)}" for op, k in program.ops]
        lines.append(result.format(program.end.python))
        return head + "".join(f"    {line}\n" for line in lines)
    lines = [op.cpp.format(k=k) for op, k in program.ops]
    lines.append(result.format(program.end.cpp) + ";")
    return head + "".join(f"    {line}\n" for line in lines) + "}\n"


def describe(rng: np.random.Generator, program: Program, spanish: bool = False) -> str:
    """Word the spec: draw one paraphrase for each operation, then one for the terminal."""
    phrases = (SPANISH if spanish else ENGLISH)[program.kind]
    words = [_pick(rng, phrases[name]).format(k=k) for name, k in program.steps]
    end = _pick(rng, phrases[program.terminal])
    return ", ".join(words) + (" y " if spanish else ", then ") + end


def function(program: Program) -> Callable[[Any], Any]:
    """Return the program as a function of `x`.

    The function raises ValueError or IndexError if the terminal is undefined, for example for the
    maximum of an empty list.
    """
    steps = [_function(op.python.format(k=k)) for op, k in program.ops]
    steps.append(_function(program.end.python))

    def run(x: Any) -> Any:
        for step in steps:
            x = step(x)
        return x

    return run


@cache
def _function(expression: str) -> Callable[[Any], Any]:
    return eval(f"lambda x: {expression}")


# --- Drawing --------------------------------------------------------------------------------------


def draw(
    rng: np.random.Generator, lengths: tuple[int, ...], held_out: bool
) -> tuple[Program, tuple[Case, ...]]:
    """Draw a program of one of `lengths` operations, and cases that tell it from its neighbours.

    The length is drawn once and kept until a program of that length is accepted, so that all
    lengths are equally frequent.
    """
    length = _pick(rng, lengths)
    while True:
        kind = "list" if rng.random() < 0.6 else "string"
        steps = tuple(draw_step(rng, kind) for _ in range(length))
        program = Program(kind, steps, _pick(rng, TERMINALS[kind]).name)
        if is_held_out(program) is held_out and (cases := _draw_cases(rng, program)):
            return program, cases


def draw_step(rng: np.random.Generator, kind: str) -> tuple[str, int]:
    """Draw one operation and its constant (0 if it has none)."""
    op = _pick(rng, OPS[kind])
    return op.name, _pick(rng, op.constants) if op.constants else 0


def fails(program: Program, cases: tuple[Case, ...]) -> bool:
    """Return whether the program gives a wrong result or an error on any case."""
    run = function(program)
    try:
        return any(run(x) != expected for x, expected in cases)
    except (ValueError, IndexError):
        return True


def _draw_cases(rng: np.random.Generator, program: Program) -> tuple[Case, ...]:
    """Draw eight cases that every neighbour fails; return () if the drawn inputs do not suffice."""
    run, cases = function(program), dict[str, Case]()
    for _ in range(3 * TESTS_PER_PROBLEM):
        x = _draw_input(rng, program.kind)
        try:
            expected = run(x)
        except (ValueError, IndexError):
            continue
        # The bound on printed length also keeps integers within the 64 bits that C++ holds.
        if len(repr(expected)) <= (12 if isinstance(expected, int) else 80):
            cases.setdefault(repr(x), Case(x, expected))
        if len(cases) == TESTS_PER_PROBLEM:
            break
    else:
        return ()
    drawn = tuple(cases.values())
    commonest = Counter(repr(case.expected) for case in drawn).most_common(1)[0][1]
    if commonest > 5 or not all(fails(other, drawn) for other in _neighbours(program)):
        return ()
    return drawn


def _neighbours(program: Program) -> Iterator[Program]:
    """Yield each program that lacks one or more operations, or has one constant off by one.

    Dropping several at once matters: two reversals, for example, cancel out.
    """
    for length in range(len(program.steps)):
        for steps in combinations(program.steps, length):
            yield Program(program.kind, steps, program.terminal)
    for i, (name, k) in enumerate(program.steps):
        for near in (k - 1, k + 1) if k else ():
            steps = (*program.steps[:i], (name, near), *program.steps[i + 1 :])
            yield Program(program.kind, steps, program.terminal)


def _draw_input(rng: np.random.Generator, kind: str) -> Any:
    """Draw a list of 1-10 integers or a string of 1-3 words; a quarter become palindromes."""
    if kind == "list":
        low, high = ((-12, 25), (-3, 8))[rng.integers(2)]
        x = rng.integers(low, high, size=rng.integers(1, 11)).tolist()
    else:
        sizes = rng.integers(2, 6, size=rng.integers(1, 4)).tolist()
        letters = map(_LETTERS.__getitem__, rng.integers(len(_LETTERS), size=sum(sizes)).tolist())
        x = " ".join("".join(islice(letters, size)) for size in sizes)
    return x + x[::-1] if rng.random() < 0.25 else x


def _pick(rng: np.random.Generator, options: tuple[Any, ...]) -> Any:
    return options[rng.integers(len(options))]


# --- C++ tests ------------------------------------------------------------------------------------


def _cpp_tests(cases: tuple[Case, ...]) -> str:
    """Write a main function that asserts every case, even if a compiler flag defines NDEBUG."""
    # The outer parentheses keep the macro from splitting `vector<long>{1, 2}` at its comma.
    asserts = "".join(f"    assert((solve({_cpp(x)}) == {_cpp(y)}));\n" for x, y in cases)
    return f"#undef NDEBUG\n#include <cassert>\nint main() {{\n{asserts}}}\n"


def _cpp(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"vector<long>{{{', '.join(map(str, value))}}}"
    return f'string("{value}")' if isinstance(value, str) else str(value)
