import os
from pathlib import Path

import pytest

from selfreg.grading import GraderPool
from selfreg.run.records import Outcome


@pytest.fixture(scope="session")
def pool():
    with GraderPool() as pool:
        yield pool


@pytest.fixture(scope="session")
def failures(pool):
    """Return a function that maps problems to {id: grade} of those whose own solution fails."""

    def grade(problems):
        grades = pool.grade([(problem, problem.solution) for problem in problems])
        pairs = zip(problems, grades, strict=True)
        return {p.id: grade for p, grade in pairs if grade.outcome is not Outcome.PASSED}

    return grade


@pytest.fixture(scope="session")
def shared_data():
    """Return the folder of public data sets, which the repository does not contain."""
    beside = Path(__file__).parents[3] / "shared"
    folder = Path(os.environ.get("SELFREG_SHARED", beside)) / "data"
    if not folder.is_dir():
        pytest.skip(f"no data sets in {folder}; SELFREG_SHARED can name their parent folder")
    return folder
