"""The one rule for a peak, and the doors of the records."""

import math

import numpy as np
import pytest

from selfreg import grading
from selfreg.run import records
from selfreg.run.records import Peak, StepRecord, Trace, find_peak, peak_index

METRIC = "panel_pass_at_1"


def steps(*values, campaign=0):
    """One record a value; None is a step that did not measure."""
    measured = [{} if value is None else {METRIC: value} for value in values]
    return [StepRecord(campaign, step, metrics) for step, metrics in enumerate(measured)]


def test_a_peak_is_the_first_of_the_highest_values_and_nan_is_none():
    nan = math.nan
    values = [[0.1, 0.5, 0.5, 0.2], [nan, 0.0, nan, 0.0], [0.3, nan, 0.2, 0.3], [nan] * 4]
    np.testing.assert_array_equal(peak_index(values), [1, 1, 0, 0])
    assert peak_index([0.2, 0.7, 0.7]) == 1


@pytest.mark.parametrize("cut", range(6))
def test_a_peak_found_step_by_step_is_that_of_all_steps_and_of_their_trace(cut):
    own = steps(0.25, None, 0.5, 0.5, None, 0.25)
    whole = find_peak(own, METRIC)
    assert whole == Peak(0.5, 0, 2)
    assert find_peak(own[cut:], METRIC, find_peak(own[:cut], METRIC)) == whole
    assert Trace(0, METRIC, tuple(own)).peak_step == whole.step


def test_a_peak_that_is_only_reached_again_stays_where_it_was():
    peak = find_peak(steps(0.5), METRIC)
    assert find_peak(steps(0.5, campaign=1), METRIC, peak) is peak
    assert find_peak(steps(0.5, 0.6, campaign=1), METRIC, peak) == Peak(0.6, 1, 1)
    assert find_peak(steps(None), METRIC) == Peak(-math.inf, 0, 0)


def test_the_grader_hands_out_the_problems_that_records_hold():
    assert grading.Problem is records.Problem
    assert grading.Tests is records.Tests
    assert all(hasattr(records, name) for name in records.__all__)
