"""Test the search for problems that occur in two sets, and a run's reaction to them."""

import json
from dataclasses import replace

import pytest

from selfreg.data.overlap import find_overlap
from selfreg.data.problem_json import problem_to_json
from selfreg.data.problems import load_problems
from selfreg.data.sets import load_sets
from selfreg.run.config import completed, default
from selfreg.run.records import Problem, StdioCase
from selfreg.run.records import Tests as ProblemTests

WORDS = (
    "Given a list of numbers, find the longest part of it whose sum is even, and return how many "
    "numbers that part has; an empty list has such a part of length zero. The list holds at most "
    "a thousand numbers, and each of them is between one and a million."
)
CODE = """\
def solve(numbers):
    best, first = 0, {0: -1}
    total = 0
    for i, number in enumerate(numbers):
        total = (total + number) % 2
        if total not in first:
            first[total] = i
        best = max(best, i - first[total])
    return best
"""


def make(name, spec="?", code="", solution=None, **fields):
    return Problem(
        name,
        spec,
        ProblemTests(code=code or f"assert solve({name!r})"),
        solution=solution,
        **fields,
    )


@pytest.mark.parametrize(
    ("train", "held_out", "by"),
    [
        (make("a", WORDS), make("b", WORDS.upper().replace(",", " --")), "text"),
        (make("a", "ａdd twｏ"), make("b", "Add two."), "text"),
        (
            make("a", f"Please. {WORDS} Thanks!"),
            make("b", f"Write code. {WORDS}"),
            "words of the text",
        ),
        (make("a", "x", "assert solve(1) == 2"), make("b", "y", "assert  solve(1)==2\n"), "tests"),
        (make("a", "x", solution=CODE), make("b", "y", solution=f"# theirs\n{CODE}"), "code"),
        (
            make("a", "x", solution=CODE + "\nprint(1)\n"),
            make("b", "y", solution=CODE + "\nprint(2 * 3)\n"),
            "words of the code",
        ),
    ],
)
def test_what_is_the_same_is_found(train, held_out, by):
    others = [make(str(i), f"Another text, of number {i}.") for i in range(50)]
    (pair,) = find_overlap([*others, train], [make("z", "Nothing like it."), held_out])
    assert (pair.held_out, pair.train, pair.by) == (held_out.id, train.id, by)
    assert 0.6 <= pair.share <= 1


def test_what_is_alike_by_chance_is_not_found():
    """Boilerplate of a set, short texts and short code do not make problems the same."""
    train = [
        make(f"a{i}", f"{WORDS} Do {i}.", solution=f"def f(x):\n    return {i}\n")
        for i in range(40)
    ]
    held_out = [
        make(f"b{i}", f"{WORDS} Undo {i}.", solution="def f(x):\n    return 3\n") for i in range(40)
    ]
    assert not find_overlap(train, held_out)
    assert not find_overlap([make("a", "Add.")], [make("b", "Multiply.")])


def test_starters_are_no_code_of_a_solution():
    starter = f"{CODE}\ndef other():\n"
    train = make("a", "x", solution=f"{starter}    return 1\n", starter=starter)
    held_out = make("b", "y", solution=f"{starter}    return 2\n", starter=starter)
    assert not find_overlap([train], [held_out])


def test_equal_cases_are_found():
    cases = (StdioCase("1 2", "3"), StdioCase("4 5", "9"))
    a, b = (Problem(name, name, ProblemTests(stdio=cases)) for name in "ab")
    assert [pair.by for pair in find_overlap([a], [b])] == ["tests"]


def test_easy_halves_and_humaneval_share_nothing():
    train, main = load_problems("easy:train"), load_problems("easy:main")
    assert not find_overlap(train, main)
    assert not find_overlap(train, load_problems("humaneval"))


@pytest.fixture
def source(tmp_path):
    """Return a function that writes problems to a file and returns its source."""

    def write(name, problems):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(problem_to_json(p)) + "\n" for p in problems))
        return f"jsonl:{path}"

    return write


def settings(**changes):
    return {**default().problems, "panel_count": 2, "report_count": 2} | changes


MANY = [
    make(f"m{i}", f"This is about {word}.")
    for i, word in enumerate(["kings", "seas", "owls", "cats", "oaks"])
]


def test_an_overlap_of_training_and_panels_is_refused(source):
    twin = make("twin", "x", solution=CODE)
    train = source("train", [*MANY[:2], make("mine", WORDS), twin])
    held_out = source("held", [make("theirs", f"{WORDS} "), replace(twin, id="other"), *MANY[3:]])
    given = settings(train=train, held_out=held_out)
    with pytest.raises(
        ValueError, match=r"2 problems of the panels also stand in the training set"
    ):
        load_sets(given)
    with pytest.raises(ValueError, match=r"theirs is mine: the same text"):
        load_sets(given)
    for most in (2, -1):
        assert len(load_sets(given | {"max_overlap": most}).train) == 4
    capability = source("capability", [make("third", WORDS), *MANY[3:]])
    with pytest.raises(ValueError, match="third is mine"):
        load_sets(settings(train=train, held_out="easy:main"), [f"old={capability}"])


def test_twins_of_held_out_problems_are_not_trained_on(source, caplog):
    problems = [*MANY, *(replace(p, id=f"{p.id}/again") for p in MANY)]
    given = settings(train=source("train", problems), held_out="")
    sets = load_sets(given)
    held_out = {p.spec for p in (*sets.panel, *sets.report)}
    assert not held_out & {p.spec for p in sets.train}
    assert "problems out of training that also stand in a panel" in caplog.text
    # Older configs do not have this key.
    older = {key: value for key, value in given.items() if key != "max_overlap"}
    assert len(load_sets(older).train) == 6


def test_older_runs_neither_look_for_overlap_nor_take_the_last_block():
    older = completed({})
    assert older["problems.max_overlap"] == -1
    assert older["grading.code_block"] == "first"


def test_what_is_for_evaluation_only_is_not_trained_on(source):
    closed = [replace(p, evaluation_only=True) for p in MANY]
    with pytest.raises(ValueError, match=r"the licence of 'm0' and 4 others forbids training"):
        load_sets(settings(train=source("train", closed), held_out="easy:main"))
    sets = load_sets(settings(train="easy:train", held_out=source("held", closed)))
    assert len(sets.panel) == 2


def test_sets_without_some_problems(source):
    sets = load_sets(settings(train=source("train", MANY), held_out="easy:main"))
    gone = {sets.train[0].id, sets.panel[0].id}
    less = sets.without(gone)
    assert (len(less.train), len(less.panel), len(less.report)) == (4, 1, 2)
    with pytest.raises(ValueError, match="nothing is left of the set of"):
        sets.without({p.id for p in sets.panel})
