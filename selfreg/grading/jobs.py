"""Describe problems for the workers, and give the reason if a problem must be refused."""

from typing import Any

from selfreg.grading.reach import out_of_reach
from selfreg.run.records import Language, Problem, to_json


def describe_job(problem: Problem, program: str, time_limit_s: float) -> dict[str, Any]:
    """Describe a program and its problem for the judge, in plain data.

    Args:
      problem: The problem.
      program: The program.
      time_limit_s: The CPU limit of each case of the problem, in seconds.
    """
    tests = problem.tests
    return {
        "language": problem.language.value,
        "setup": tests.setup,
        "program": program.removeprefix("\ufeff"),  # Python and g++ skip it in a file, too
        "code": tests.code,
        "entry_point": problem.entry_point,
        "cpp_standard": problem.cpp_standard,
        "checker": to_json(tests.checker),
        "declares": [source for source in (problem.starter, problem.solution) if source],
        "stdio": [(case.stdin, case.stdout, case.alternatives) for case in tests.stdio],
        "time_limit_s": time_limit_s,
        "memory_limit_mb": problem.memory_limit_mb,
    }


def reason_to_refuse(problem: Problem) -> str:
    """Return why a problem's tests cannot be run against a program; empty if they can be."""
    if problem.language is not Language.PYTHON or problem.tests.stdio:
        return ""
    return out_of_reach(problem.tests.setup, problem.tests.code, problem.entry_point)
