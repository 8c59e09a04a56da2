"""Test that each data set's own solutions pass its own tests in the real grader."""

from dataclasses import replace

import pytest

from selfreg.data.problems import load_humaneval, load_mbpp, load_problems
from selfreg.run.records import Outcome

# CPP/22 and CPP/137 include boost, and CPP/162 links against OpenSSL.
HUMANEVAL_X_LIBRARIES = {"CPP/22", "CPP/137", "CPP/162"}

# The samples of APPS and CodeContests come without solutions; these were written for the tests.
STDIO_SOLUTIONS = {
    "APPS/4245": "a, b = map(int, input().split())\nprint(-(-(b - 1) // (a - 1)))\n",
    "APPS/4655": "for _ in range(int(input())):\n    print(sum(map(int, input().split())) // 2)\n",
    "APPS/4559": """\
input()
product = 1
for factor in sorted(map(int, input().split())):
    product = min(product * factor, 10**18 + 1)
print(product if product <= 10**18 else -1)
""",
    "1139_C. Edgy Trees": """\
import sys
numbers = list(map(int, sys.stdin.read().split()))
n, k = numbers[:2]
root = list(range(n + 1))
def find(v):
    while root[v] != v:
        root[v] = root[root[v]]
        v = root[v]
    return v
for u, v, black in zip(numbers[2::3], numbers[3::3], numbers[4::3]):
    if not black:
        root[find(u)] = find(v)
sizes = {}
for v in range(1, n + 1):
    sizes[find(v)] = sizes.get(find(v), 0) + 1
print((n**k - sum(size**k for size in sizes.values())) % (10**9 + 7))
""",
    "1238_B. Kill 'Em All": """\
for _ in range(int(input())):
    n, r = map(int, input().split())
    places = sorted(set(map(int, input().split())), reverse=True)
    print(sum(place > i * r for i, place in enumerate(places)))
""",
}


def test_humaneval(failures):
    problems = load_humaneval()
    assert len(problems) == 164
    assert not failures(problems)


@pytest.mark.parametrize("split", ["train", "main", "hard", "ood"])
def test_procedural(failures, split):
    assert not failures(load_problems(f"procedural:{split}")[:100])


def test_procedural_cpp(failures):
    # Each operation and terminal of C++ is compiled only once, because compilation is slow.
    wanted, chosen = set(), []
    for problem in load_problems("procedural:cpp"):
        pieces = {line.split("(")[0] for line in problem.solution.splitlines()[1:]}
        if pieces - wanted:
            wanted |= pieces
            chosen.append(problem)
    assert 15 <= len(chosen) <= 40
    assert not failures(chosen)


@pytest.mark.parametrize("split", ["train", "main"])
def test_easy(failures, split):
    problems = load_problems(f"easy:{split}")
    assert len(problems) >= 64
    assert not failures(problems)


@pytest.mark.parametrize(("name", "count"), [("mbpp.jsonl", 974), ("sanitized-mbpp.json", 427)])
def test_mbpp(failures, shared_data, name, count):
    problems = load_mbpp(shared_data / "mbpp" / name)
    assert len(problems) == count
    assert not failures(problems)


@pytest.mark.parametrize(
    "language", ["English", "Chinese", "Spanish", "Russian", "Arabic", "French"]
)
def test_humaneval_xl(failures, shared_data, language):
    problems = load_problems(f"jsonl:{shared_data}/humaneval-xl-python/{language}.jsonl")
    assert len(problems) == 80
    assert {problem.category for problem in problems} == {language}
    assert not failures(problems)


def test_humaneval_x(failures, shared_data):
    problems = load_problems(f"jsonl:{shared_data}/humaneval-x/humaneval_cpp.jsonl.gz")
    assert len(problems) == 164
    sample = [p for p in problems[1::14] if p.id not in HUMANEVAL_X_LIBRARIES]
    assert not failures(sample)


def test_stdio_samples(failures, shared_data):
    samples = shared_data / "samples"
    apps = load_problems(f"jsonl:{samples}/apps_10.jsonl")
    contests = load_problems(f"jsonl:{samples}/sandboxfusion_code_eval_code_contests.jsonl")
    assert (len(apps), len(contests)) == (10, 20)
    assert all(problem.tests.stdio for problem in apps + contests)
    by_id = {problem.id: problem for problem in apps + contests}
    solved = [replace(by_id[name], solution=code) for name, code in STDIO_SOLUTIONS.items()]
    assert not failures(solved)


def test_a_wrong_program_fails_in_every_kind_of_test(pool):
    python, cpp = load_problems("procedural:main")[0], load_problems("procedural:cpp")[0]
    broken = cpp.starter + "    return {};\n}\n"
    grades = pool.grade([(python, "def solve(x):\n    return None\n"), (cpp, broken)])
    assert [grade.outcome for grade in grades] == [Outcome.FAILED, Outcome.FAILED]
