import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfreg.data.checker_json import PROTOCOLS
from selfreg.data.problem_json import CPP_STANDARDS, SPLITS, problem_from_json, problem_to_json
from selfreg.run.records import Checker, Language, Problem, StdioCase
from selfreg.run.records import Tests as ProblemTests

some_text = st.text(min_size=1)
cases = st.builds(StdioCase, st.text(), st.text())
tolerances = st.none() | st.floats(0, 1)
checkers = st.one_of(
    st.builds(
        Checker,
        st.sampled_from(["lines", "tokens", "caseless", "any_of"]),
        tolerances,
        tolerances,
        st.booleans(),
    ),
    st.builds(Checker, st.just("floats"), st.floats(0, 1), st.floats(0, 1), st.booleans()),
    st.builds(Checker, st.sampled_from(["exact", "unordered"])),
    st.builds(
        Checker,
        st.just("program"),
        program=st.text(min_size=1).filter(str.strip),
        language=st.sampled_from(Language),
        protocol=st.sampled_from(PROTOCOLS),
    ),
)
tests = st.one_of(
    st.builds(ProblemTests, st.text(), some_text),
    st.builds(
        ProblemTests, st.text(), stdio=st.lists(cases, min_size=1).map(tuple), checker=checkers
    ),
    st.builds(
        ProblemTests,
        stdio=st.lists(
            st.builds(StdioCase, st.text(), st.text(), st.lists(st.text()).map(tuple)), min_size=1
        ).map(tuple),
        checker=st.just(Checker("any_of")),
    ),
)
problems = st.builds(
    Problem,
    st.text(),
    st.text(),
    tests,
    st.sampled_from(Language),
    st.none() | st.text(),
    st.text(),
    st.none() | st.text(),
    st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    st.integers(min_value=1),
    st.sampled_from(SPLITS),
    st.text(),
    st.booleans(),
    st.sampled_from(CPP_STANDARDS),
)


@given(problems)
def test_the_round_trip_is_exact(problem):
    assert problem_from_json(json.loads(json.dumps(problem_to_json(problem)))) == problem


def test_defaults_are_left_out():
    problem = Problem("a", "add", ProblemTests(code="pass"))
    assert problem_to_json(problem) == {"id": "a", "spec": "add", "tests": {"code": "pass"}}


ROW = {"id": "a", "spec": "add", "tests": {"code": "pass"}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": 3}, "'id' must be a string, not 3"),
        ({"time_limit": 3}, "unknown key 'time_limit'; allowed: id, spec, .*time_limit_s"),
        ({"time_limit_s": 0}, "'time_limit_s' must be positive, not 0"),
        ({"time_limit_s": True}, "'time_limit_s' must be an integer or a number, not True"),
        ({"memory_limit_mb": 1.5}, "'memory_limit_mb' must be an integer, not 1.5"),
        ({"language": "java"}, "'language' must be python or cpp, not 'java'"),
        ({"cpp_standard": "c++98"}, "'cpp_standard' must be one of c\\+\\+11, .*, not 'c\\+\\+98'"),
        ({"split": "dev"}, "'split' must be one of train, main, hard, ood, cpp, not 'dev'"),
        ({"tests": {"code": "pass", "stdio": [{"stdin": "", "stdout": ""}]}}, "not both"),
        ({"tests": {}}, "either code or stdio"),
        (
            {"tests": {"stdio": [{"stdin": "", "stdout": "", "alternatives": ["1"]}]}},
            "only the checker 'any_of' takes alternatives",
        ),
        (
            {"tests": {"stdio": [{"stdin": "", "stdout": "", "alternatives": [1]}]}},
            "'alternatives' must be strings, not 1",
        ),
        (
            {"tests": {"code": "pass", "checker": "lines", "tolerance": 1}},
            "'checker' or the older 'tolerance', and not both",
        ),
        ({"tests": {"asserts": []}}, "unknown key 'asserts'; allowed: setup, code, stdio"),
        ({"tests": {"stdio": [{"stdin": "1"}]}}, "the key 'stdout' is missing"),
        (
            {"tests": {"stdio": ["1"]}},
            "expected an object with the keys stdin, stdout, alternatives, not '1'",
        ),
    ],
)
def test_bad_values_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        problem_from_json(ROW | change)


def test_an_older_row_keeps_its_tolerance():
    tests = {"stdio": [{"stdin": "", "stdout": "1.0"}], "tolerance": 1e-6}
    problem = problem_from_json(ROW | {"tests": tests})
    assert problem.tests.checker == Checker("lines", absolute=1e-6, relative=1e-6)


def test_a_missing_key_is_named():
    with pytest.raises(ValueError, match="the key 'spec' is missing; it holds a string"):
        problem_from_json({"id": "a", "tests": {"code": "pass"}})
