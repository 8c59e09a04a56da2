"""Grading: programs run against the tests of their problem, many at a time, and hostile or not."""

from selfreg.grading.extract import extract_program
from selfreg.grading.pool import GraderError, GraderPool

__all__ = ["GraderError", "GraderPool", "extract_program"]
