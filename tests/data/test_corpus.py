import numpy as np
import pytest

from selfreg.data import procedural
from selfreg.data.corpus import STYLES, break_program, make_corpus
from selfreg.data.procedural import generate
from selfreg.run.records import Language, Outcome


def test_clean_corpus_is_the_solutions():
    assert all(text == problem.solution for problem, text in make_corpus(200, 0, 0.0, 0.0))


def test_corpus_is_deterministic_and_its_problems_do_not_depend_on_the_rates():
    assert make_corpus(30, 5) == make_corpus(30, 5)
    clean, faulty = make_corpus(30, 5, 0.0, 0.0), make_corpus(30, 5, 0.5, 0.5)
    assert [problem for problem, _ in clean] == [problem for problem, _ in faulty]
    assert make_corpus(30, 6) != make_corpus(30, 5)


def test_rates_are_as_asked():
    count, bug_rate, sloppy_rate = 1500, 0.2, 0.4
    corpus = make_corpus(count, 0, bug_rate, sloppy_rate)
    changed = np.mean([text != problem.solution for problem, text in corpus])
    expected = 1 - (1 - bug_rate) * (1 - sloppy_rate)
    assert abs(changed - expected) < 4 * np.sqrt(expected * (1 - expected) / count)
    languages = np.mean([problem.language is Language.CPP for problem, _ in corpus])
    assert abs(languages - STYLES["cpp"]) < 4 * np.sqrt(STYLES["cpp"] / count)


@pytest.mark.parametrize(("bug_rate", "sloppy_rate"), [(1.0, 0.0), (0.0, 1.0)])
def test_planted_defects_never_pass(pool, bug_rate, sloppy_rate):
    corpus = make_corpus(150, 1, bug_rate, sloppy_rate)
    python = [(p, text) for p, text in corpus if p.language is Language.PYTHON]
    cpp = [(p, text) for p, text in corpus if p.language is Language.CPP][:6]
    outcomes = [grade.outcome for grade in pool.grade(python + cpp)]
    assert Outcome.PASSED not in outcomes
    if bug_rate:
        # A program with a bug parses, but it gives a wrong result or an error on some input.
        assert set(outcomes) <= {Outcome.FAILED, Outcome.EXCEPTION}


def test_sloppiness_has_its_four_forms():
    texts = [t for p, t in make_corpus(300, 2, 0.0, 1.0) if p.language is Language.PYTHON]
    forms = {
        "print": [t for t in texts if "    print(" in t],
        "name": [t for t in texts if not t.startswith("def solve(x):")],
        "chatter": [t for t in texts if "\n\n" in t],
        "no return": [t for t in texts if "print(" not in t and "return" not in t],
    }
    assert sum(map(len, forms.values())) == len(texts)
    assert all(len(found) > len(texts) / 8 for found in forms.values())


def test_bugs_are_of_every_kind():
    program = procedural.Program("list", (("add", 3), ("sort", 0)), "first")
    rng = np.random.default_rng(0)
    cases = next(filter(None, (procedural._draw_cases(rng, program) for _ in range(99))))
    broken = [break_program(rng, program, cases).steps for _ in range(200)]
    assert (("add", 3),) in broken
    assert (("sort", 0),) in broken
    assert any(len(s) == 2 and s[0][0] == "add" and s[0][1] != 3 for s in broken)
    assert any(len(s) == 2 and s[1][0] not in ("sort", "add") for s in broken)


def test_no_held_out_composition_is_in_the_corpus(monkeypatch):
    drawn = []

    def spy(rng, program, *rest):
        drawn.append(program)
        return make_problem(rng, program, *rest)

    make_problem = procedural.make_problem
    monkeypatch.setattr("selfreg.data.corpus.make_problem", spy)
    corpus = make_corpus(800, 3)
    assert len(drawn) == 800
    assert not any(map(procedural.is_held_out, drawn))
    assert {problem.split for problem, _ in corpus} == {"train"}
    held_out = {
        p.solution for split in ("main", "hard", "ood", "cpp") for p in generate(split, 200, 0)
    }
    assert not held_out & {problem.solution for problem, _ in corpus}


def test_every_style_is_in_the_corpus():
    corpus = [problem for problem, _ in make_corpus(300, 4)]
    assert any(problem.category in ("4 ops", "5 ops") for problem in corpus)
    assert any(", then " not in problem.spec for problem in corpus)
    assert any(problem.language is Language.CPP for problem in corpus)


@pytest.mark.parametrize("rates", [(1.5, 0.0), (0.0, -0.1)])
def test_a_rate_outside_the_unit_interval_is_refused(rates):
    with pytest.raises(ValueError, match=r"is a fraction in \[0, 1\]"):
        make_corpus(1, 0, *rates)
