"""Fixtures for the grader's tests: one pool that most tests share, and helpers to use it."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from selfreg.grading import GraderError, GraderPool
from selfreg.grading.ladder import LADDER
from selfreg.run.records import Checker, Grade, Language, Problem, StdioCase, Tests

# Tests of a function that adds two numbers, by language.
SUM_TESTS = {
    Language.PYTHON: Tests(code="assert add(2, 3) == 5\nassert add(10, -4) == 6\n"),
    Language.CPP: Tests(
        setup="#include <cassert>\n",
        code="int main() { assert(add(2, 3) == 5); assert(add(10, -4) == 6); }\n",
    ),
}


@pytest.fixture(scope="session")
def pool() -> Iterator[GraderPool]:
    with GraderPool(2) as pool:
        yield pool


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which pools share what they compile."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="session", params=LADDER)
def pool_in_each_way(request: pytest.FixtureRequest, compiled: Path) -> Iterator[GraderPool]:
    """Yield a pool in each isolation that works here; the pools share what they compile."""
    try:
        pool = GraderPool(2, isolation=request.param)
    except GraderError as error:
        pytest.skip(f"not on this machine: {error}")
    with pool:
        shutil.copytree(compiled, pool._cpp.binaries, dirs_exist_ok=True)
        yield pool
        shutil.copytree(pool._cpp.binaries, compiled, dirs_exist_ok=True)


@pytest.fixture(scope="session")
def make_problem() -> Callable[..., Problem]:
    """Return a function that makes a problem; by default, the problem is to add two numbers."""

    def make(
        language: Language = Language.PYTHON,
        *,
        code: str = "",
        stdio: tuple[tuple[str, str], ...] = (),
        setup: str = "",
        time_limit_s: float = 1.0,
        memory_limit_mb: int = 512,
        entry_point: str = "add",
        checker: Checker | None = None,
        starter: str = "",
    ) -> Problem:
        tests = SUM_TESTS[language]
        if language is Language.CPP and not stdio:
            starter = starter or "int add(int a, int b) {\n"
        if code or stdio:
            tests = Tests(
                setup, code, tuple(StdioCase(*case) for case in stdio), checker or Checker()
            )
        return Problem(
            id="test/0",
            spec="",
            tests=tests,
            language=language,
            entry_point=None if stdio else entry_point,
            starter=starter,
            time_limit_s=time_limit_s,
            memory_limit_mb=memory_limit_mb,
        )

    return make


@pytest.fixture(scope="session")
def grade(pool: GraderPool, make_problem: Callable[..., Problem]) -> Callable[..., Grade]:
    """Return a function that grades one program; its other arguments are as in `make_problem`."""

    def grade_one(program: str, language: Language = Language.PYTHON, **problem) -> Grade:
        return pool.grade([(make_problem(language, **problem), program)])[0]

    return grade_one


@pytest.fixture(scope="session")
def descendants() -> Callable[[], set[int]]:
    """Return a function that finds the descendants of this process."""

    def find() -> set[int]:
        children: dict[int, list[int]] = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                # State and parent follow the name, which may hold any characters.
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(folder.name))
        found: set[int] = set()
        todo = [os.getpid()]
        while todo:
            todo += children.get(todo.pop(), [])
            found.update(todo)
        return found

    return find


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of data sets and attacks beside the repository."""
    default = Path(__file__).parents[3] / "shared"
    folder = Path(os.environ.get("SELFREG_SHARED", default))
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}: set SELFREG_SHARED")
    return folder
