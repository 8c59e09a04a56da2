"""Grades programs against the tests of their problems: many at a time, and hostile or not."""

from selfreg.grading.extract import extract_program
from selfreg.grading.pool import GraderError, GraderPool
from selfreg.run.records import Problem, Tests

__all__ = ["GraderError", "GraderPool", "Problem", "Tests", "extract_program"]
