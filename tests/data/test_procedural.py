import ast
import re
from collections import Counter

import numpy as np
import pytest

from selfreg.data import procedural
from selfreg.data.procedural import SPLITS, Program, generate
from selfreg.data.procedural_ops import OPS, TERMINALS
from selfreg.data.procedural_phrases import ENGLISH, SPANISH
from selfreg.run.records import Language


def programs(split, count, seed=0):
    """Draw programs of a split with their cases, without wording them."""
    rng = np.random.default_rng(seed)
    draw = SPLITS[split].lengths, SPLITS[split].held_out
    return [procedural.draw(rng, *draw) for _ in range(count)]


def execute(source, x):
    names = {}
    exec(source, names)
    return names["solve"](x)


def cases_of(problem):
    """Yield (input, output) pairs, read from the text of Python asserts."""
    for line in ast.parse(problem.tests.code).body:
        call, (right,) = line.test.left, line.test.comparators
        yield ast.literal_eval(call.args[0]), ast.literal_eval(right)


def test_the_family_has_the_sizes_it_is_known_for():
    names = {end.name for ends in TERMINALS.values() for end in ends}
    assert (len(OPS["list"]), len(OPS["string"]), len(names)) == (22, 13, 11)
    constants = {k for ops in OPS.values() for op in ops for k in op.constants}
    assert constants == set(range(2, 10))


@pytest.mark.parametrize("phrases", [ENGLISH, SPANISH])
@pytest.mark.parametrize("kind", OPS)
def test_a_spec_names_one_program(phrases, kind):
    pieces = [*OPS[kind], *TERMINALS[kind]]
    assert [piece.name for piece in pieces] == list(phrases[kind])
    assert all(len(ways) >= 2 for ways in phrases[kind].values())
    counts = Counter(way for ways in phrases[kind].values() for way in ways)
    assert counts.most_common(1)[0][1] == 1
    for op in OPS[kind]:
        assert all(("{k}" in way) == bool(op.constants) for way in phrases[kind][op.name])


def test_a_program_by_hand():
    program = Program("list", (("even", 0), ("add", 3), ("take", 2)), "sum")
    assert procedural.composition(program) == "even add take > sum"
    assert procedural.function(program)([1, 2, 4, 6]) == (2 + 3) + (4 + 3)
    assert procedural.write(program, Language.PYTHON) == (
        "def solve(x):\n"
        "    x = [v for v in x if v % 2 == 0]\n"
        "    x = [v + 3 for v in x]\n"
        "    x = x[:2]\n"
        "    return sum(x)\n"
    )
    assert procedural.write(program, Language.CPP) == (
        "long solve(vector<long> x) {\n"
        "    KEEP(x, v % 2 == 0);\n"
        "    EACH(x, v + 3);\n"
        "    TAKE(x, 2);\n"
        "    return SUM(x);\n"
        "}\n"
    )
    rng = np.random.default_rng(0)
    wordings = {procedural.describe(rng, program) for _ in range(2000)}
    assert len(wordings) == 3**4
    assert {
        "keep the even numbers, add 3 to each number, take the first 2 items, then return the sum",
        "select the even items, add 3 to all of them, take 2 items, then find the sum",
    } < wordings
    assert procedural.describe(rng, program, spanish=True).split(" y ")[1].startswith("devuelve")


def test_evaluation_in_process_is_what_the_program_text_does():
    for split in ("train", "hard"):
        for program, cases in programs(split, 150):
            source = procedural.write(program, Language.PYTHON)
            assert all(execute(source, x) == expected for x, expected in cases)


@pytest.mark.parametrize("split", SPLITS)
def test_generation_is_deterministic_and_a_prefix_of_more(split):
    some = generate(split, 20, seed=3)
    assert generate(split, 40, seed=3)[:20] == some
    assert {p.solution for p in generate(split, 20, seed=4)} != {p.solution for p in some}
    assert len({problem.id for problem in some}) == len({p.solution for p in some}) == 20


@pytest.mark.parametrize("split", SPLITS)
def test_a_split_is_as_described(split):
    for problem in generate(split, 100, seed=0):
        operations = int(problem.category.split()[0])
        assert operations in ((4, 5) if split == "hard" else (1, 2, 3))
        assert problem.split == (split if SPLITS[split].held_out else "train")
        assert problem.entry_point == "solve"
        cpp = split in ("cpp", "cpp_train")
        assert problem.language is (Language.CPP if cpp else Language.PYTHON)
        assert problem.solution.startswith(problem.starter)
        assert problem.solution.count("\n") == operations + (3 if cpp else 2)
        assert problem.tests.code.count("solve(") == 8
        assert (", then " in problem.spec) == (split != "ood")


def test_no_composition_of_train_is_held_out():
    held_out = ["main", "hard", "ood", "cpp"]
    seen = {
        split: {procedural.composition(program) for program, _ in programs(split, 300)}
        for split in SPLITS
    }
    trained = seen["train"] | seen["cpp_train"]
    assert not any(trained & seen[split] for split in held_out)
    assert len(seen["main"]) > 200


def test_no_program_text_of_train_is_held_out():
    # Constants are 2 to 9, except for the `% 2` of the operations "even" and "odd".
    texts = {
        split: {re.sub(r"(?<!% )[2-9]", "k", p.solution) for p in generate(split, 300, seed=0)}
        for split in ("train", "main", "hard", "ood")
    }
    assert not any(texts["train"] & texts[split] for split in ("main", "hard", "ood"))


@pytest.mark.parametrize("split", ["train", "main", "hard", "ood"])
def test_tests_discriminate(split):
    for problem in generate(split, 150, seed=1):
        inputs, outputs = zip(*cases_of(problem), strict=True)
        assert len({repr(x) for x in inputs}) == 8
        assert Counter(map(repr, outputs)).most_common(1)[0][1] <= 5
        lines = problem.solution.splitlines()
        for i in range(1, len(lines) - 1):
            shorter = "\n".join(lines[:i] + lines[i + 1 :])
            assert fails(shorter, inputs, outputs), f"{problem.id} passes without {lines[i]!r}"


def fails(source, inputs, outputs):
    try:
        return any(execute(source, x) != y for x, y in zip(inputs, outputs, strict=True))
    except (ValueError, IndexError):
        return True


def test_a_pair_of_operations_that_cancel_out_is_not_drawn():
    rng = np.random.default_rng(0)
    twice = Program("list", (("reverse", 0), ("reverse", 0), ("add", 2)), "first")
    once = Program("list", (("reverse", 0), ("add", 2)), "first")
    assert not any(procedural._draw_cases(rng, twice) for _ in range(50))
    assert any(procedural._draw_cases(rng, once) for _ in range(50))


def test_default_sizes_are_there():
    sizes = {split: len(generate(split, SPLITS[split].default_count, 0)) for split in SPLITS}
    others = dict.fromkeys(("hard", "ood", "cpp", "cpp_train"), 256)
    assert sizes == {"train": 2048, "main": 512, **others}


def test_a_bad_split_is_refused():
    with pytest.raises(ValueError, match="'test'; allowed: train, main, hard, ood, cpp"):
        generate("test", 1, seed=0)


def test_more_programs_than_there_are_is_refused(monkeypatch):
    monkeypatch.setitem(SPLITS, "main", procedural.Split((1,)))
    with pytest.raises(ValueError, match=r"main has only about \d+ programs, not 10000"):
        generate("main", 10_000, seed=0)
    assert generate("main", 0, seed=0) == ()
