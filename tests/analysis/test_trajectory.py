import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfreg.analysis.trajectory import of_trace, rolling_mean, shapes, trajectory
from selfreg.run.records import StepRecord, Trace

rates = st.lists(st.integers(0, 80).map(lambda k: k / 80), min_size=1, max_size=30)


def test_rise_and_collapse_by_hand():
    shape = trajectory(np.array([0, 5, 10, 15, 20]), np.array([0.2, 0.5, 0.8, 0.4, 0.1]))
    assert (shape.peak, shape.peak_step, shape.end, shape.end_step) == (0.8, 10, 0.1, 20)
    assert shape.gap == pytest.approx(0.7)
    assert shape.ratio == pytest.approx(0.125)
    assert shape.collapsed
    assert [shape.gap_above(level) for level in (0.2, 0.3, 0.5, 0.7)] == [True, True, True, False]
    assert shape.phase_transition == pytest.approx(0.4 / 0.7)
    assert (shape.onset_step, shape.latency_steps) == (20, 0)  # 30% of the peak is 0.24


def test_latency_counts_the_steps_after_the_onset():
    shape = trajectory(np.arange(6), np.array([0.5, 1.0, 0.2, 0.9, 0.1, 0.1]))
    assert (shape.onset_step, shape.latency_steps) == (2, 3)


def test_a_drop_before_the_peak_does_not_count():
    shape = trajectory(np.arange(5), np.array([0.9, 0.1, 1.0, 0.8, 0.5]))
    assert shape.phase_transition == pytest.approx(0.3 / 0.5)
    assert shape.onset_step is None


def test_a_recovery_makes_the_largest_drop_exceed_the_gap():
    assert trajectory(np.arange(3), np.array([1.0, 0.0, 0.5])).phase_transition == 2.0


@pytest.mark.parametrize("values", [[0.3], [0.3, 0.3, 0.3], [0.1, 0.2, 0.3]])
def test_without_a_drop_its_statistics_are_undefined(values):
    shape = trajectory(np.arange(len(values)), np.array(values))
    assert shape.gap == 0
    assert shape.phase_transition is None
    assert shape.onset_step is None
    assert shape.latency_steps is None
    assert not shape.collapsed


def test_a_policy_that_never_solved_anything_did_not_collapse():
    shape = trajectory(np.arange(3), np.zeros(3))
    assert shape.ratio is None
    assert not shape.collapsed
    assert shape.onset_step is None


def test_a_gap_equal_to_the_level_is_not_above_it():
    # 0.3 - 0.1 is 0.19999999999999998 and 0.7 - 0.5 is 0.19999999999999996; 0.9 - 0.7 is above.
    for peak, end in ((0.3, 0.1), (0.7, 0.5), (0.9, 0.7)):
        assert not trajectory(np.arange(2), np.array([peak, end])).gap_above(0.2)


def test_the_peak_is_the_first_of_equals():
    assert trajectory(np.array([3, 4, 5]), np.array([0.5, 0.5, 0.1])).peak_step == 3


@pytest.mark.parametrize(
    ("steps", "values"), [([], []), ([0], [0.1, 0.2]), ([0, 1], [0.1, np.nan])]
)
def test_bad_series_are_refused(steps, values):
    with pytest.raises(ValueError):
        trajectory(np.array(steps), np.array(values))


def test_of_trace_reads_the_metric_where_it_was_measured():
    metrics = [{"m": 1.0}, {"x": 9.0}, {"m": 0.0}]
    trace = Trace(0, "m", tuple(StepRecord(0, i, m) for i, m in enumerate(metrics)))
    shape = of_trace(trace)
    assert (shape.peak_step, shape.end_step, shape.end) == (0, 2, 0.0)
    assert of_trace(trace, window=2).end == 0.5
    with pytest.raises(ValueError, match="no measurement"):
        of_trace(Trace(0, "other", trace.records))


def test_rolling_mean_by_hand():
    assert rolling_mean(np.arange(1, 7), 3).tolist() == [1, 1.5, 2, 3, 4, 5]
    assert rolling_mean(np.array([[0.0, 1.0], [2.0, 4.0]]), 5).tolist() == [[0, 0.5], [2, 3]]
    with pytest.raises(ValueError, match="window"):
        rolling_mean(np.zeros(3), 0)


@given(rates, st.integers(1, 10))
def test_rolling_mean_is_the_mean_of_the_last_values(values, window):
    expected = [np.mean(values[max(0, i + 1 - window) : i + 1]) for i in range(len(values))]
    np.testing.assert_allclose(rolling_mean(np.array(values), window), expected, atol=1e-12)


@given(rates)
def test_shape_against_its_definition(values):
    shape = trajectory(np.arange(len(values)), np.array(values))
    peak = max(values)
    first = values.index(peak)
    drops = [a - b for a, b in zip(values[first:], values[first + 1 :], strict=False)]
    below = [i for i in range(first + 1, len(values)) if values[i] < 0.3 * peak - 1e-9]
    assert (shape.peak, shape.peak_step) == (peak, first)
    assert shape.onset_step == (below[0] if below else None)
    if peak - values[-1] > 1e-9:
        assert shape.phase_transition == pytest.approx(max(drops) / (peak - values[-1]))
    else:
        assert shape.phase_transition is None


@given(st.lists(rates, min_size=1, max_size=5).filter(lambda r: len({len(x) for x in r}) == 1))
def test_many_series_at_once_equal_each_series_alone(series):
    together = shapes(np.array(series))
    for i, values in enumerate(series):
        alone = shapes(np.array([values]))
        assert together.peak[i] == alone.peak[0]
        assert together.peak_step[i] == alone.peak_step[0]
        assert together.gap[i] == alone.gap[0]
        np.testing.assert_equal(together.phase_transition[i], alone.phase_transition[0])


def one_shape(values, steps):
    """Compute the shape by its definitions, one value at a time."""
    read = [(s, v) for s, v in zip(steps, values, strict=True) if not math.isnan(v)]
    if not read:
        return dict.fromkeys(FIELDS, math.nan)
    found = dict.fromkeys(FIELDS, math.nan)
    found["peak"] = max(v for _, v in read)
    first = [v for _, v in read].index(found["peak"])
    found["peak_step"] = read[first][0]
    found["end_step"], found["end"] = read[-1]
    found["gap"] = found["peak"] - found["end"]
    if found["peak"] > 0:
        found["ratio"] = found["end"] / found["peak"]
    if found["gap"] > 1e-9:
        drops = [a[1] - b[1] for a, b in pairwise(read[first:])]
        found["phase_transition"] = max(0.0, *drops) / found["gap"]
    for step, value in read[first:]:
        if value < 0.3 * found["peak"] - 1e-9:
            found["onset_step"] = step
            found["latency_steps"] = found["end_step"] - step
            break
    return found


FIELDS = (
    "peak", "peak_step", "end", "end_step", "gap", "ratio",
    "phase_transition", "onset_step", "latency_steps",
)  # fmt: skip
noisy = st.one_of(st.just(math.nan), st.integers(0, 16).map(lambda k: k / 16))


@given(st.lists(st.lists(noisy, min_size=6, max_size=6), min_size=1, max_size=4))
def test_shapes_with_gaps_against_a_slow_loop(series):
    steps = np.array([0, 2, 3, 7, 8, 20])
    together = shapes(np.array(series)[None], steps)
    for i, values in enumerate(series):
        expected = one_shape(values, steps)
        for name in FIELDS:
            found = getattr(together, name)[0, i]
            np.testing.assert_allclose(found, expected[name], atol=1e-12, err_msg=name)
        assert together.collapsed[0, i] == (expected["end"] < 0.3 * expected["peak"] - 1e-9)
        for level in (0.2, 0.3, 0.5):
            assert together.gap_above(level)[0, i] == (expected["gap"] > level + 1e-9)
