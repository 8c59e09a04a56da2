"""`python -m selfreg.data_check`, as a user runs it."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from selfreg.data.sets import ProblemSets
from selfreg.grading import GraderPool
from selfreg.loop.stages import _without_broken
from selfreg.run.records import Problem
from selfreg.run.records import Tests as ProblemTests

ROOT = Path(__file__).parents[1]
ROW = {
    "problem_id": 1,
    "question": "Print the sum of two numbers.",
    "solutions": json.dumps(["print(sum(map(int, input().split())))\n"]),
    "input_output": json.dumps({"inputs": ["1 2"], "outputs": ["3"]}),
}


def run(*arguments):
    command = [sys.executable, "-m", "selfreg.data_check", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def test_a_source_is_checked(tmp_path):
    broken = ROW | {"problem_id": 2, "solutions": json.dumps(["print(4)"])}
    untested = ROW | {"problem_id": 3, "input_output": ""}
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (ROW, broken, untested)))
    done = run("check", f"jsonl:{path}", "--workers=1")
    assert done.returncode == 1, done.stderr
    for words in ("2 problems", "rows of: APPS", "kind: program", "checker: lines"):
        assert words in done.stdout
    assert "2 of 2 problems have a solution to run; 1 are broken." in done.stdout
    assert "APPS/2: its own solution gets wrong_output" in done.stdout
    assert "# Print the sum of two numbers." in done.stdout
    assert "left out rows: 1 (no test cases)" in done.stderr
    assert run("check", f"jsonl:{path}", "--workers=1", "--max_broken=1").returncode == 0


def test_an_overlap_is_printed(tmp_path):
    for name, number in (("a", 1), ("b", 2)):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(ROW | {"problem_id": number}))
    done = run("overlap", f"jsonl:{tmp_path}/a.jsonl", f"jsonl:{tmp_path}/b.jsonl")
    assert done.returncode == 1, done.stderr
    assert "APPS/2" in done.stdout
    assert "1 of 1 problems of" in done.stdout


def test_a_mistake_is_one_line(tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"odd": 1}))
    done = run("check", f"jsonl:{tmp_path}/rows.jsonl")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.strip().splitlines()) == 1


def test_broken_problems_are_left_out_up_to_a_limit(caplog):
    problems = [
        Problem(name, name, ProblemTests(code="assert f(1) == 2"), entry_point="f", solution=code)
        for name, code in (
            *((f"right {i}", "def f(x): return x + 1") for i in range(3)),
            ("wrong 1", "def f(x): return x"),
            ("wrong 2", "def f(x): return None"),
        )
    ]
    sets = ProblemSets(tuple(problems), tuple(problems[:2]), tuple(problems[1:]), {})
    with GraderPool(1) as pool:
        for most in (0, 1):
            config = SimpleNamespace(problems=SimpleNamespace(max_broken=most))
            with pytest.raises(ValueError, match=rf"2 problems .*wrong 1: .*max_broken={most}"):
                _without_broken(config, pool, sets)
        config = SimpleNamespace(problems=SimpleNamespace(max_broken=2))
        left = _without_broken(config, pool, sets)
    assert [p.id for p in left.train] == ["right 0", "right 1", "right 2"]
    assert [p.id for p in left.report] == ["right 1", "right 2"]
    assert "left out 2 problems that their own solutions do not solve: wrong 1" in caplog.text
