import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfreg.data.problem_json import SPLITS, problem_from_json, problem_to_json
from selfreg.run.records import Language, Problem, StdioCase
from selfreg.run.records import Tests as ProblemTests

some_text = st.text(min_size=1)
cases = st.builds(StdioCase, st.text(), st.text())
tests = st.one_of(
    st.builds(ProblemTests, st.text(), some_text),
    st.builds(ProblemTests, st.text(), stdio=st.lists(cases, min_size=1).map(tuple)),
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
        ({"split": "dev"}, "'split' must be one of train, main, hard, ood, cpp, not 'dev'"),
        ({"tests": {"code": "pass", "stdio": [{"stdin": "", "stdout": ""}]}}, "not both"),
        ({"tests": {}}, "either code or stdio"),
        ({"tests": {"asserts": []}}, "unknown key 'asserts'; allowed: setup, code, stdio"),
        ({"tests": {"stdio": [{"stdin": "1"}]}}, "the key 'stdout' is missing"),
        ({"tests": {"stdio": ["1"]}}, "expected an object with the keys stdin, stdout, not '1'"),
    ],
)
def test_bad_values_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        problem_from_json(ROW | change)


def test_a_missing_key_is_named():
    with pytest.raises(ValueError, match="the key 'spec' is missing; it holds a string"):
        problem_from_json({"id": "a", "tests": {"code": "pass"}})
