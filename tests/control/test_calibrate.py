"""Stationary campaigns, thresholds, and how a campaign fell."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfreg.control import calibrate
from selfreg.control.find import find_calibration
from selfreg.control.within import predictor
from selfreg.run.records import StepRecord, Trace


@pytest.mark.parametrize(
    ("rate", "least"), [(0.05, 19), (0.5, 1), (0.1, 9), (0.01, 99), (0.2, 4), (0.3, 3), (0.9, 1)]
)
def test_the_least_number_of_campaigns(rate, least):
    assert calibrate.least_traces(rate) == least
    assert math.ceil(round((least + 1) * (1 - rate), 9)) <= least
    assert least == 1 or math.ceil(round(least * (1 - rate), 9)) > least - 1


def test_the_order_statistic_by_hand():
    maxima = [float(i) for i in range(19, 0, -1)]  # unsorted
    assert calibrate.order_statistic(maxima, 0.05) == 19  # ceil(20 x 0.95) = 19
    assert calibrate.order_statistic(maxima, 0.1) == 18
    assert calibrate.order_statistic(maxima, 0.5) == 10
    assert calibrate.order_statistic([*maxima, 20.0], 0.05) == 20  # ceil(21 x 0.95) = 20


def test_too_few_campaigns_are_refused_and_the_number_named():
    with pytest.raises(ValueError, match=r"rate of 0.05 needs at least 19.*there are 18"):
        calibrate.order_statistic([1.0] * 18, 0.05)


@given(st.integers(19, 60), st.sampled_from([0.05, 0.1, 0.25]))
def test_one_more_exceeds_it_with_at_most_the_rate(count, rate):
    """By symmetry: of n + 1 exchangeable values each is as likely to be the one left out."""
    values = list(range(count + 1))
    exceeding = sum(
        value > calibrate.order_statistic([v for v in values if v != value], rate)
        for value in values
    )
    assert exceeding / (count + 1) <= rate


def pool(steps=100, passed=2, drawn=4, problems=12):
    """Steps that say where they come from; a panel of problems that are solved half of the time."""
    made = tuple(
        StepRecord(0, s, {"at": float(s), "twice": 2.0 * s, "panel_pass_at_1": 9.0})
        for s in range(steps)
    )
    counts = np.full(problems, passed), np.full(problems, drawn)
    return calibrate.Pool(made, *counts, panel_samples=4, panel_every=4)


def test_a_stationary_campaign_is_made_of_whole_steps_drawn_one_by_one():
    records = calibrate.stationary(pool(), 5000, np.random.default_rng(0))
    assert [record.step for record in records] == list(range(5000))
    at = np.array([record.metrics["at"] for record in records])
    np.testing.assert_array_equal([record.metrics["twice"] for record in records], 2 * at)
    counts = np.bincount(at.astype(int), minlength=100)
    assert 20 < counts.min() < counts.max() < 85  # 50 each, give or take five deviations of 7
    assert abs(np.corrcoef(at[:-1], at[1:])[0, 1]) < 0.07  # nothing of one in the next


def test_panels_are_drawn_anew_from_the_problems_own_rates():
    """Beta(2.5, 2.5) a problem: mean 1/2; between two draws of a trace the rates stay."""
    rng = np.random.default_rng(1)
    traces = [calibrate.stationary(pool(problems=400), 8, rng) for _ in range(200)]
    panels = np.array(
        [[r.metrics["panel_pass_at_1"] for r in t if r.step % 4 == 0] for t in traces]
    )
    assert all("panel_pass_at_1" not in r.metrics for t in traces for r in t if r.step % 4)
    assert panels.mean() == pytest.approx(0.5, abs=0.005)
    # Var(difference of two) = 2 E[p (1 - p)] / (4 x 400), E[p (1 - p)] = 2.5^2 / (5 x 6).
    expected = math.sqrt(2 * 2.5**2 / 30 / 1600)
    assert np.std(panels[:, 0] - panels[:, 1]) == pytest.approx(expected, rel=0.15)
    # Its standard error over problems: their spread and the draws', p (1 - p) in all.
    errors = [r.metrics["panel_pass_at_1_se"] for t in traces for r in t if r.step == 0]
    within, between = 2.5**2 / 30 / 4, 0.25 - 2.5**2 / 30
    assert np.mean(errors) == pytest.approx(math.sqrt((within + between) / 400), rel=0.05)


def test_problems_that_never_vary_leave_a_panel_that_hardly_does():
    sure = pool(passed=400, drawn=400, problems=50)
    records = calibrate.stationary(sure, 40, np.random.default_rng(0))
    assert min(r.metrics["panel_pass_at_1"] for r in records if r.step % 4 == 0) > 0.97


def noisy_pool(seed):
    rng = np.random.default_rng(seed)
    steps = tuple(
        StepRecord(
            0, s, {
                "entropy": float(np.exp(rng.normal())),
                "clip_ratio": float(rng.binomial(16, 0.02) / 16),
                "grad_norm": float(np.exp(rng.normal())),
            },
        )
        for s in range(800)
    )  # fmt: skip
    return calibrate.Pool(steps, rng.integers(0, 21, 48), np.full(48, 20), 4, panel_every=4)


def test_the_promised_rate_is_kept_on_new_campaigns():
    """Exact binomial: with n = 199 the rate itself is Beta(10, 190), within [0.02, 0.09]."""
    drawn_from = noisy_pool(0)
    made = calibrate.calibrate(drawn_from, predictor.judge, (24,), traces=199, seed=0)
    threshold = calibrate.order_statistic(made["24"]["maxima"], 0.05)
    rng = np.random.default_rng(1)
    alarms = 0
    for _ in range(300):
        state = predictor.State(made["24"]["units"], threshold)
        for record in calibrate.stationary(drawn_from, 24, rng):
            state, verdict = predictor.observe(state, record)
            alarms += verdict is predictor.Verdict.STOP
            if verdict is predictor.Verdict.STOP:
                break
    assert 0.005 < alarms / 300 < 0.13


def test_a_calibration_holds_units_and_maxima_of_each_budget():
    made = calibrate.calibrate(noisy_pool(0), predictor.judge, (12, 24), traces=199, seed=0)
    assert list(made) == ["12", "24"]
    for fit in made.values():
        assert len(fit["maxima"]) == 199
        assert fit["maxima"] == sorted(fit["maxima"])
    units = [made[budget]["units"] for budget in ("12", "24")]
    assert all(1.0 <= units[0][name] <= units[1][name] for name in units[1])
    again = calibrate.calibrate(noisy_pool(0), predictor.judge, (12, 24), traces=199, seed=0)
    assert again == made


def test_only_the_indicators_that_are_asked_for_are_calibrated():
    some = ("clip_ratio", "entropy")
    made = calibrate.calibrate(noisy_pool(0), predictor.judge, (24,), 199, 0, some)
    assert set(made["24"]["units"]) == set(some)


def test_the_shipped_calibration_fits_the_package():
    shipped = find_calibration("tiny")
    assert shipped["model"] == "tiny"
    for fit in shipped["budgets"].values():
        assert set(fit["units"]) <= {*predictor.INDICATORS, calibrate.PANEL}
        assert len(fit["maxima"]) >= calibrate.least_traces(0.01)
        assert calibrate.order_statistic(fit["maxima"], 0.05) > 0.5


def test_a_file_that_is_no_calibration_is_refused(tmp_path):
    (tmp_path / "no.json").write_text('{"model": "tiny"}')
    for name in (str(tmp_path / "no.json"), str(tmp_path / "missing.json"), "large"):
        with pytest.raises(ValueError, match=r"is no calibration.*name tiny, or a file"):
            find_calibration(name)


def test_how_a_campaign_fell():
    values = {0: 0.5, 4: 0.6, 8: 0.55, 12: 0.5, 16: 0.29, 20: 0.1}
    records = tuple(
        StepRecord(
            0, step, {"panel_pass_at_1": values[step], "panel_pass_at_1_se": 0.03}
            if step in values else {},
        )
        for step in range(21)
    )  # fmt: skip
    # Two standard errors of a difference: 0.085; half of the peak: 0.3.
    assert calibrate.fall_of(Trace(0, "pass_rate", records)) == (4, 12, 16)
    assert calibrate.fall_of(Trace(0, "pass_rate", records[:10])) == (4, None, None)
