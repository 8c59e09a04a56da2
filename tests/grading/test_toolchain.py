"""Test a pool's C++ toolchain: the parts that programs share, and its errors."""

import os
import time
from pathlib import Path

from selfreg.grading import GraderPool
from selfreg.run.records import Language, Outcome

ADD = "def add(a, b):\n    return a + b\n"


def test_a_missing_compiler_is_an_error_of_cpp_alone(make_problem, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    with GraderPool(1, max_retries=0) as pool:
        assert pool.grade([(make_problem(), ADD)])[0].outcome is Outcome.PASSED
        job = (make_problem(Language.CPP), "int add(int a, int b) { return a + b; }")
        (grade,) = pool.grade([job])
        assert grade.outcome is Outcome.INFRA_ERROR
        assert "g++" in grade.detail


def test_a_broken_compiler_is_an_error(make_problem):
    job = (make_problem(Language.CPP), "int add(int a, int b) { return a + b; }")
    options = ["-no-such-option"]
    with GraderPool(1, max_retries=0, cpp_options=options) as pool:
        (grade,) = pool.grade([job])
    assert grade.outcome is Outcome.INFRA_ERROR
    assert "no-such-option" in grade.detail


def test_precompiled_headers_change_nothing(make_problem):
    # Four programs share a preamble, which is precompiled from the third one on. The last program
    # needs a header that the preamble does not include. A strict umask must not hide files from the
    # compiler's user.
    start = "// sums\n#include <vector>\n#include <string>\nusing namespace std;\n"
    programs = [
        f"{start}int add(int a, int b) {{ vector<int> v{{a, b, {i}}}; return v[0] + v[1]; }}\n"
        for i in range(4)
    ]
    programs.append(f"{start}int add(int a, int b) {{ regex r; return a + b; }}\n")
    umask = os.umask(0o077)
    try:
        with GraderPool(1) as pool:
            problem = make_problem(Language.CPP)
            grades = [pool.grade([(problem, program)])[0] for program in programs]
            compiled = list(Path(pool._folder).glob("cpp/headers/*.gch"))
    finally:
        os.umask(umask)
    assert len(compiled) == 1
    assert [grade.outcome for grade in grades] == [Outcome.PASSED] * 4 + [Outcome.COMPILE_ERROR]


def test_a_compiled_program_is_kept(make_problem):
    program = "#include <regex>\nint add(int a, int b) { std::regex r; return a + b; }"
    with GraderPool(1) as pool:
        times = []
        for _ in range(2):
            started = time.monotonic()
            assert pool.grade([(make_problem(Language.CPP), program)])[0].outcome is Outcome.PASSED
            times.append(time.monotonic() - started)
        assert times[1] < times[0] / 4


def test_what_does_not_link_is_told_the_same_each_time(make_problem):
    program = "int help(int);\nint add(int a, int b) { return help(a) + b; }"
    job = (make_problem(Language.CPP), program)
    with GraderPool(1) as pool:
        grades = [pool.grade([job])[0] for _ in range(2)]
    assert [grade.outcome for grade in grades] == [Outcome.COMPILE_ERROR] * 2
    assert "undefined reference to 'help(int)'" in grades[0].detail.replace("`", "'")
    assert grades[0].detail == grades[1].detail
