import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfreg.analysis.chains import chains, online_stop, stack
from selfreg.run.records import StepRecord, Trace

noisy = st.one_of(st.just(math.nan), st.integers(0, 20).map(lambda k: k / 20))
campaign = st.lists(noisy, min_size=9, max_size=9)
NAN = math.nan


def stop_one(values, steps, decline=0.02, declines=3):
    peak, kept, last, count = -math.inf, NAN, NAN, 0
    for step, value in zip(steps, values, strict=True):
        if math.isnan(value):
            continue
        last = step
        if value > peak:
            peak, kept = value, step
        count = count + 1 if value < peak - decline - 1e-9 else 0
        if count == declines:
            return step, peak, kept, True
    return last, NAN if math.isnan(kept) else peak, kept, False


def test_the_online_rule_by_hand():
    # Declines of at most .02 do not count, and a recovery resets the count.
    values = [0.2, 0.5, 0.48, 0.4, 0.3, 0.49, 0.4, 0.3, 0.2, 0.9]
    stops = online_stop(np.array(values))
    assert (stops.stop_step, stops.kept, stops.kept_step, stops.fired) == (8, 0.5, 1, True)
    rising = online_stop(np.array([0.1, 0.2, 0.3]))
    assert (rising.stop_step, rising.kept, rising.fired) == (2, 0.3, False)
    flat = online_stop(np.full(8, 0.3))
    assert (flat.stop_step, flat.kept_step, flat.fired) == (7, 0, False)


def test_a_series_without_readings_keeps_nothing():
    stops = online_stop(np.full((2, 4), NAN))
    assert np.isnan(stops.stop_step).all()
    assert np.isnan(stops.kept).all()
    assert not stops.fired.any()


@given(st.lists(campaign, min_size=1, max_size=4))
def test_the_online_rule_against_a_slow_loop(series):
    steps = np.arange(0, 27, 3)
    stops = online_stop(np.array(series), steps)
    for i, values in enumerate(series):
        step, kept, kept_step, fired = stop_one(values, steps)
        np.testing.assert_equal(stops.stop_step[i], step)
        np.testing.assert_equal(stops.kept[i], kept)
        np.testing.assert_equal(stops.kept_step[i], kept_step)
        assert stops.fired[i] == fired


def test_two_chains_by_hand():
    values = np.array([
        [[0.2, 0.4, 0.1], [0.1, 0.3, 0.3]],
        [[0.5, 0.1, 0.1], [NAN, NAN, NAN]],
    ])  # fmt: skip
    found = chains(values, np.array([[2, 2], [2, 0]]))
    assert found.end.tolist() == [0.3, 0.1]
    assert found.carry_over.tolist() == pytest.approx([0.1, 0.3])
    assert found.total_steps.tolist() == [4, 2]
    assert found.per_100_steps.tolist() == pytest.approx([7.5, 5.0])
    assert found.collapses.tolist() == [1, 1]
    assert found.hindsight_oracle.tolist() == [0.4, 0.5]
    assert found.trace_oracle.tolist() == [0.3, 0.5]
    assert found.trace_oracle_steps.tolist() == [4, 2]
    assert found.campaigns.gap[0].tolist() == pytest.approx([0.3, 0.0])


def test_the_oracle_counts_the_updates_before_it_stops():
    falling = np.array([[[0.9, 0.5, 0.4, 0.3, 0.2]]])
    found = chains(falling, np.array([[4]]))
    assert found.trace_oracle_steps.tolist() == [3]
    assert found.trace_oracle.tolist() == [0.9]


def test_a_chain_that_never_ran():
    found = chains(np.full((1, 2, 3), NAN), np.zeros((1, 2)))
    for name in ("end", "per_100_steps", "hindsight_oracle", "trace_oracle"):
        assert np.isnan(getattr(found, name)).all(), name
    assert np.isnan(found.carry_over).all()
    assert found.collapses.tolist() == [0]


@settings(max_examples=50)
@given(st.lists(st.lists(campaign, min_size=3, max_size=3), min_size=1, max_size=4))
def test_chains_against_a_slow_loop(series):
    values = np.array(series)
    updates = np.where(np.isnan(values).all(axis=2), 0, 8)
    found = chains(values, updates)
    ends = [[[v for v in c if not math.isnan(v)][-1:] for c in chain] for chain in series]
    for i, chain in enumerate(series):
        measured = [v for c in chain for v in c if not math.isnan(v)]
        ran = [j for j in range(3) if ends[i][j]]
        np.testing.assert_equal(found.end[i], ends[i][ran[-1]][0] if ran else NAN)
        np.testing.assert_equal(found.hindsight_oracle[i], max(measured, default=NAN))
        kept = stop_one(chain[ran[-1]], range(9))[1] if ran else NAN
        np.testing.assert_equal(found.trace_oracle[i], kept)
        stops = [stop_one(chain[j], range(9)) for j in ran]
        assert found.trace_oracle_steps[i] == sum(s[0] if s[3] else 8 for s in stops)
        collapsed = [ends[i][j][0] < 0.3 * np.nanmax(chain[j]) - 1e-9 for j in ran]
        assert found.collapses[i] == sum(collapsed)
        if ran:
            expected = 100 * ends[i][ran[-1]][0] / (8 * len(ran))
            assert found.per_100_steps[i] == pytest.approx(expected)
    for j in range(3):
        at = [chain[j][0] for chain in ends if chain[j]]
        expected = np.mean(at) if at else NAN
        np.testing.assert_allclose(found.carry_over[j], expected)


def test_traces_become_arrays():
    def trace(number, values):
        metrics = [{"m": v, "loss": 0.1} if v is not None else {"loss": 0.1} for v in values[:-1]]
        metrics.append({"m": values[-1]})
        return Trace(number, "m", tuple(StepRecord(number, i, m) for i, m in enumerate(metrics)))

    values, updates = stack([[trace(0, [0.1, None, 0.3]), trace(1, [0.2, 0.4])], [trace(0, [0.5])]])
    np.testing.assert_equal(
        values,
        [[[0.1, NAN, 0.3], [0.2, 0.4, NAN]], [[0.5, NAN, NAN], [NAN] * 3]],
    )
    assert updates.tolist() == [[2, 1], [0, 0]]
    with pytest.raises(ValueError, match="no chain has a trace"):
        stack([])


@pytest.mark.parametrize(("values", "updates"), [((2, 3), (2, 3)), ((2, 3, 4), (2, 4))])
def test_shapes_must_fit(values, updates):
    with pytest.raises(ValueError, match="values must have the axes"):
        chains(np.zeros(values), np.zeros(updates))
