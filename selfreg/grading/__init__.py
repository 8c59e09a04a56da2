"""Grade many programs at a time, hostile or not, against the tests of their problems."""

from selfreg.grading.extract import extract_program
from selfreg.grading.pool import GraderError, GraderPool
from selfreg.run.records import Problem, Tests

__all__ = ["GraderError", "GraderPool", "Problem", "Tests", "extract_program"]
