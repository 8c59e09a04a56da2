"""Programs with known verdicts for benchmarks.grading."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from selfreg.data import procedural
from selfreg.run.records import Language, Problem, StdioCase, Tests

CALLS = 3
TIME_LIMIT_S = 3.0
Job = tuple[Problem, str]


class Case(NamedTuple):
    """A Python program, calls of its `solve`, and whether all of them give the expected result."""

    number: int
    program: str
    calls: tuple[procedural.Case, ...]
    right: bool

    @property
    def asserts(self) -> str:
        """The tests as source text."""
        return "".join(f"assert solve({x!r}) == {expected!r}\n" for x, expected in self.calls)

    @property
    def job(self) -> Job:
        """The job for GraderPool."""
        return _problem(f"python/{self.number}", self.asserts), self.program

    @property
    def wire(self) -> dict[str, object]:
        """The job for benchmarks.grading_peers."""
        return {
            "program": self.program,
            "asserts": self.asserts,
            "inputs": [[x] for x, _ in self.calls],
            "expected": [expected for _, expected in self.calls],
        }


def python_cases(count: int) -> list[Case]:
    """Make distinct short programs with three asserts each; 7 of 10 are right."""
    rng = np.random.default_rng(0)
    cases: dict[str, Case] = {}
    while len(cases) < count:
        program, drawn = procedural.draw(rng, (1, 2, 3), held_out=False)
        calls, kind, right = drawn[:CALLS], program.kind, len(cases) % 10 < 7
        while not right and not (program.kind == kind and procedural.fails(program, calls)):
            program, _ = procedural.draw(rng, (1, 2, 3), held_out=False)
        source = procedural.write(program, Language.PYTHON)
        cases.setdefault(source, Case(len(cases), source, calls, right))
    return list(cases.values())


def timed_jobs(limit_s: float, seconds: Sequence[float], action: str) -> list[Job]:
    """Make programs that wait or work for these seconds; {s} in `action` stands for the number."""
    problem = _problem(action, "assert solve(1) == 2\n", limit_s)
    return [
        (problem, f"import time\ndef solve(x):\n    {action.format(s=s)}\n    return x + 1\n")
        for s in seconds
    ]


WORK = "while time.process_time() < {s}: pass"
SLEEP = "time.sleep({s})"


def mixed_jobs() -> list[Job]:
    """Make programs of other kinds, which work, wait, never end, or read and write."""
    whole = Problem(id="sums", spec="", tests=Tests(stdio=_sums(7)))
    adder = "n, *rest = map(int, open(0).read().split())\nprint({k} * sum(rest))\n"
    return [
        *timed_jobs(TIME_LIMIT_S, [0.05 + 0.01 * i for i in range(8)], WORK),
        *timed_jobs(TIME_LIMIT_S, (0.06, 0.07), SLEEP),
        *timed_jobs(0.3, (60.0, 61.0), WORK),
        *((whole, adder.format(k=k)) for k in (7, 8)),
    ]


# --- C++ ------------------------------------------------------------------------------------------

_STARTER = """\
#include<algorithm>
#include<iostream>
#include<map>
#include<math.h>
#include<set>
#include<string>
#include<vector>
using namespace std;
vector<string> solve(vector<int> numbers) {
"""
_BODY = """\
    map<int, int> counts;
    for (int number : numbers) counts[number % {k}]++;
    set<string> names;
    for (auto& [value, count] : counts) names.insert(to_string(value) + ":" + to_string(count));
    vector<string> out(names.begin(), names.end());
    sort(out.rbegin(), out.rend());
    return out;
}}
"""
_FUNCTION_TESTS = """\
#undef NDEBUG
#include<assert.h>
int main() {{
    assert((solve({{}}) == vector<string>{{}}));
    assert((solve({{0, {k}, {k} + 1}}) == vector<string>{{"1:1", "0:2"}}));
    assert((solve({{2, 2, 2}}) == vector<string>{{"2:3"}}));
}}
"""
_WHOLE = """\
#include <bits/stdc++.h>
using namespace std;
int main() {{
    int n;
    cin >> n;
    vector<long long> values(n);
    for (auto& value : values) cin >> value;
    cout << {k} * accumulate(values.begin(), values.end(), 0LL) << endl;
}}
"""


def cpp_functions(count: int) -> list[Job]:
    """Make programs as in HumanEval-X: a function after seven includes, and asserts in main."""
    return [
        (
            Problem(
                id=f"function/{k}",
                spec="",
                tests=Tests(code=_FUNCTION_TESTS.format(k=k)),
                language=Language.CPP,
                entry_point="solve",
                starter=_STARTER,
            ),
            _STARTER + _BODY.format(k=k),
        )
        for k in range(11, 11 + count)
    ]


def cpp_programs(count: int) -> list[Job]:
    """Make whole programs that include bits/stdc++.h, with one case of input and output each."""
    return [
        (
            Problem(
                id=f"program/{k}",
                spec="",
                tests=Tests(stdio=_sums(k)[-1:]),
                language=Language.CPP,
            ),
            _WHOLE.format(k=k),
        )
        for k in range(11, 11 + count)
    ]


def _sums(k: int) -> tuple[StdioCase, ...]:
    return tuple(
        StdioCase(f"{n}\n{' '.join(map(str, range(n)))}\n", f"{k * sum(range(n))}\n")
        for n in (1, 5, 100)
    )


def _problem(name: str, asserts: str, limit_s: float = TIME_LIMIT_S) -> Problem:
    return Problem(
        id=name, spec="", tests=Tests(code=asserts), entry_point="solve", time_limit_s=limit_s
    )
